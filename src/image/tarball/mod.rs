//! The entries of a tar stream, read so that every careful reader agrees: what two programs could take to mean two
//! things is refused (the class of CVE-2025-62518).
//!
//! The shape of headers is the `tar` crate's. The walk from block to block and the meaning of extensions are here,
//! as they decide where an entry ends and what it is called.

mod records;

use std::io::{self, Read};

use tar::{EntryType, Header};

use self::records::Extensions;

/// Headers and contents are padded to blocks of so many bytes.
const BLOCK: usize = 512;
/// The longest extension, in bytes (as Go's reader has it).
const EXTENSION_MAX: u64 = 1 << 20;
/// Sizes from here on do not fit a header's octal field, so that only an extension tells them.
const OCTAL_SIZE_END: u64 = 8 << 30;

/// Why a stream was refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The archive is not acceptable.
    #[error("entry {path:?}: {reason}")]
    Refused {
        /// The entry's path as the archive has it.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The stream cannot be read.
    #[error("cannot read the archive: {0}")]
    Read(io::Error),
}

/// One entry, its extensions applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its name as the archive has it.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: EntryType,
    /// What a link points to.
    pub link: Option<Vec<u8>>,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Seconds since 1970, and nanoseconds after those.
    pub mtime: (i64, u32),
    /// Bytes of content that follow.
    pub size: u64,
    /// Major and minor number of a device.
    pub device: (u32, u32),
    /// Extended attributes.
    pub xattrs: Vec<(String, Vec<u8>)>,
}

/// Walks over a stream; reading from it gives the present entry's content.
pub struct Reader<R> {
    stream: R,
    /// Bytes of the present content that nobody has read yet.
    left: u64,
    /// Bytes that fill the last block after it.
    padding: u64,
    ended: bool,
}

fn refused(path: &[u8], reason: impl Into<String>) -> Error {
    Error::Refused { path: String::from_utf8_lossy(path).into_owned(), reason: reason.into() }
}

fn torn(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, format!("the archive ends inside {what}"))
}

impl<R: Read> Reader<R> {
    /// Begins at the stream's first block.
    pub fn new(stream: R) -> Reader<R> {
        Reader { stream, left: 0, padding: 0, ended: false }
    }

    /// The next entry; what was not read of the present one's content is passed over.
    pub fn entry(&mut self) -> Result<Option<Entry>, Error> {
        self.pass_over().map_err(Error::Read)?;
        let mut extensions = Extensions::default();
        while let Some(header) = self.header()? {
            let raw = Raw(&header);
            let fail = |reason: String| refused(&raw.path(), reason);
            let size = raw.size().map_err(fail)?;
            match header.entry_type() {
                EntryType::XHeader => extensions.pax(&self.extension(size)?).map_err(fail)?,
                EntryType::GNULongName => extensions.long_path(self.extension(size)?).map_err(fail)?,
                EntryType::GNULongLink => extensions.long_link(self.extension(size)?).map_err(fail)?,
                EntryType::XGlobalHeader => {
                    if !extensions.is_empty() {
                        return Err(fail("an extension is followed by a global one".to_owned()));
                    }
                    records::check_global(&self.extension(size)?).map_err(fail)?;
                }
                _ => {
                    let entry = raw.entry(extensions).map_err(fail)?;
                    self.content(entry.size);
                    return Ok(Some(entry));
                }
            }
        }
        if extensions.is_empty() {
            Ok(None)
        } else {
            Err(refused(b"", "an extension is followed by nothing"))
        }
    }

    fn content(&mut self, size: u64) {
        self.left = size;
        self.padding = size.wrapping_neg() % BLOCK as u64;
    }

    /// The next header; `None` at the end, which is two blocks of zeros or the end of the stream.
    fn header(&mut self) -> Result<Option<Header>, Error> {
        if self.ended {
            return Ok(None);
        }
        let Some(block) = self.block()? else { return Ok(None) };
        if block.iter().all(|byte| *byte == 0) {
            self.ended = true;
            return match self.block()? {
                Some(next) if next.iter().any(|byte| *byte != 0) => {
                    Err(refused(b"", "a single block of zeros stands before further entries"))
                }
                _ => Ok(None),
            };
        }
        let header = Header::from_byte_slice(&block).clone();
        let sum = block.iter().enumerate().map(|(at, byte)| match at {
            // The checksum's own field counts as spaces.
            148..156 => i64::from(b' '),
            _ => i64::from(*byte),
        });
        let told = number(&header.as_old().cksum);
        if told != Ok(sum.sum()) {
            return Err(refused(&Raw(&header).path(), "the checksum of its header is wrong"));
        }
        Ok(Some(header))
    }

    fn block(&mut self) -> Result<Option<[u8; BLOCK]>, Error> {
        let mut block = [0; BLOCK];
        let mut filled = 0;
        while filled < BLOCK {
            match self.stream.read(&mut block[filled..]) {
                Ok(0) if filled == 0 => {
                    self.ended = true;
                    return Ok(None);
                }
                Ok(0) => return Err(Error::Read(torn("a header"))),
                Ok(got) => filled += got,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::Read(error)),
            }
        }
        Ok(Some(block))
    }

    /// The content of an extension, which is held in memory and must therefore be small.
    fn extension(&mut self, size: u64) -> Result<Vec<u8>, Error> {
        if size > EXTENSION_MAX {
            return Err(refused(b"", format!("an extension has more than {EXTENSION_MAX} bytes")));
        }
        self.content(size);
        let mut bytes = Vec::new();
        self.read_to_end(&mut bytes).map_err(Error::Read)?;
        self.pass_over().map_err(Error::Read)?;
        Ok(bytes)
    }

    fn pass_over(&mut self) -> io::Result<()> {
        let rest = self.left + self.padding;
        if io::copy(&mut self.stream.by_ref().take(rest), &mut io::sink())? != rest {
            return Err(torn("a file"));
        }
        (self.left, self.padding) = (0, 0);
        Ok(())
    }
}

impl<R: Read> Read for Reader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let want = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        if want == 0 {
            return Ok(0);
        }
        let got = self.stream.read(&mut buffer[..want])?;
        if got == 0 {
            return Err(torn("a file"));
        }
        self.left -= got as u64;
        Ok(got)
    }
}

/// A header's fields, by the format that it claims.
struct Raw<'a>(&'a Header);

/// Text up to the first zero byte.
fn text(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or(field)
}

impl Raw<'_> {
    fn magic(&self) -> &[u8] {
        &self.0.as_bytes()[257..263]
    }

    /// The part of the name before a slash, in formats that have one. Star's is shorter: times follow.
    fn prefix(&self) -> &[u8] {
        let bytes = self.0.as_bytes();
        match (self.magic(), &bytes[508..]) {
            (b"ustar\0", b"tar\0") => text(&bytes[345..476]),
            (b"ustar\0", _) => text(&bytes[345..500]),
            _ => b"",
        }
    }

    fn path(&self) -> Vec<u8> {
        let name = text(&self.0.as_old().name);
        match self.prefix() {
            b"" => name.to_vec(),
            prefix => [prefix, b"/", name].concat(),
        }
    }

    fn size(&self) -> Result<u64, String> {
        let size = number(&self.0.as_old().size).map_err(|reason| format!("size: {reason}"))?;
        u64::try_from(size).map_err(|_| "its size is negative".to_owned())
    }

    fn device(&self) -> Result<(u32, u32), String> {
        if !matches!(self.magic(), b"ustar\0" | b"ustar ") {
            return Ok((0, 0));
        }
        let bytes = self.0.as_bytes();
        let part = |field| small(number(field), "device number");
        Ok((part(&bytes[329..337])?, part(&bytes[337..345])?))
    }

    /// The entry that this header and the extensions before it make together.
    fn entry(&self, extensions: Extensions) -> Result<Entry, String> {
        let old = self.0.as_old();
        let size = match (self.size()?, extensions.size) {
            (told, None) => told,
            (told, Some(size)) if told == size => size,
            // Writers leave the field empty where it cannot hold the number.
            (0, Some(size)) if size >= OCTAL_SIZE_END => size,
            (told, Some(size)) => {
                return Err(format!("its header says {told} bytes, its extension {size}"));
            }
        };
        let path = extensions.path.unwrap_or_else(|| self.path());
        let mut kind = self.0.entry_type();
        if kind == EntryType::Regular && path.ends_with(b"/") {
            // Before there was a type of their own, directories were files with a slash at the end.
            if old.linkflag != [0] {
                return Err("a regular file whose name ends with a slash".to_owned());
            }
            kind = EntryType::Directory;
        }
        let header_only = matches!(
            kind,
            EntryType::Directory
                | EntryType::Symlink
                | EntryType::Link
                | EntryType::Char
                | EntryType::Block
                | EntryType::Fifo
        );
        if header_only && size > 0 {
            return Err(format!("it has no content by its type, and {size} bytes by its size"));
        }
        let link = extensions.link.unwrap_or_else(|| text(&old.linkname).to_vec());
        let id = |extension: Option<u32>, field, what| match extension {
            Some(id) => Ok(id),
            None => small(number(field), what),
        };
        Ok(Entry {
            path,
            kind,
            link: Some(link).filter(|link| !link.is_empty()),
            mode: small(number(&old.mode), "mode")? & 0o7777,
            uid: id(extensions.uid, &old.uid, "uid")?,
            gid: id(extensions.gid, &old.gid, "gid")?,
            mtime: match extensions.mtime {
                Some(time) => time,
                None => (number(&old.mtime).map_err(|reason| format!("mtime: {reason}"))?, 0),
            },
            size,
            device: self.device()?,
            xattrs: extensions.xattrs,
        })
    }
}

fn small(value: Result<i64, &'static str>, what: &str) -> Result<u32, String> {
    let value = value.map_err(|reason| format!("{what}: {reason}"))?;
    u32::try_from(value).map_err(|_| format!("{what} {value} is out of range"))
}

/// A number of a header: octal digits between zeros and spaces, or two's complement after a set first bit (GNU).
fn number(field: &[u8]) -> Result<i64, &'static str> {
    let too_large = "the number is too large";
    if field[0] & 0x80 != 0 {
        let fill = if field[0] & 0x40 != 0 { 0xff } else { 0 };
        let mut value = 0_i64;
        for (at, byte) in field.iter().enumerate() {
            let byte = (byte ^ fill) & if at == 0 { 0x7f } else { 0xff };
            value = value.checked_mul(256).ok_or(too_large)? | i64::from(byte);
        }
        return Ok(if fill == 0 { value } else { !value });
    }
    let start = field.iter().position(|b| !matches!(b, 0 | b' ')).unwrap_or(field.len());
    let digits = text(&field[start..]).trim_ascii_end();
    digits.iter().try_fold(0_i64, |value, digit| match digit {
        b'0'..=b'7' => Ok(value.checked_mul(8).ok_or("the number is too large")? + i64::from(digit - b'0')),
        _ => Err("not an octal number"),
    })
}

#[cfg(test)]
mod tests;
