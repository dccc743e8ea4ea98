//! One pass from a compressed stream to files: digest, decompression, digest of the contents, unpacking.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use flate2::bufread::MultiGzDecoder;
use sha2::{Digest, Sha256};

use super::manifest::Compression;
use super::unpack::{self, Limits};

/// Buffer before the decompressor, in bytes.
const BUFFER: usize = 256 << 10;
/// Beyond so many bytes, contents that are more than [`RATIO_MAX`] times the compressed bytes are a bomb.
const RATIO_FROM: u64 = 1 << 30;
/// gzip cannot exceed about 1030; zstd can.
const RATIO_MAX: u64 = 2000;

/// What a stream turned out to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unpacked {
    /// The digest of the stream itself, `sha256:...`.
    pub digest: String,
    /// The digest of its uncompressed contents.
    pub diff_id: String,
    /// Directories without attributes of their own (see [`unpack::Contents`]).
    pub implied: BTreeSet<PathBuf>,
}

/// The digest of bytes.
pub fn sha256(bytes: &[u8]) -> String {
    let mut hash = Sha256::new();
    hash.update(bytes);
    digest_text(hash)
}

/// `sha256:` and the digits.
pub fn digest_text(hash: Sha256) -> String {
    let digits: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{digits}")
}

/// Reads what is read through it into a hash, and copies it to a file.
struct Tee<'a, R> {
    inner: R,
    hash: Sha256,
    copy: Option<&'a mut File>,
}

impl<R: Read> Read for Tee<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.inner.read(buffer)?;
        self.hash.update(&buffer[..got]);
        if let Some(file) = &mut self.copy {
            file.write_all(&buffer[..got])?;
        }
        Ok(got)
    }
}

/// The uncompressed side of a stream, watched for bombs.
struct Inflated<'a> {
    inner: Box<dyn Read + 'a>,
    count: u64,
    compressed: Rc<Cell<u64>>,
}

impl Read for Inflated<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.inner.read(buffer)?;
        self.count += got as u64;
        if self.count > RATIO_FROM && self.count / RATIO_MAX > self.compressed.get() {
            return Err(io::Error::other("it unpacks to over 2000 times its size: refused as a bomb"));
        }
        Ok(got)
    }
}

/// Counts the bytes before the decompressor.
struct Counted<R> {
    inner: R,
    count: Rc<Cell<u64>>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.inner.read(buffer)?;
        self.count.set(self.count.get() + got as u64);
        Ok(got)
    }
}

/// What a stream holds, decompressed as its first bytes say; one that grows beyond all measure is an error.
pub fn inflate<'a>(stream: impl Read + 'a) -> io::Result<impl Read + 'a> {
    let compressed = Rc::new(Cell::new(0));
    let mut counted = Counted { inner: stream, count: compressed.clone() };
    let mut head = Vec::new();
    counted.by_ref().take(4).read_to_end(&mut head)?;
    let compression = Compression::of(&head);
    let buffered = BufReader::with_capacity(BUFFER, io::Cursor::new(head).chain(counted));
    let inner: Box<dyn Read + 'a> = match compression {
        Compression::Gzip => Box::new(MultiGzDecoder::new(buffered)),
        Compression::Zstd => Box::new(zstd::Decoder::with_buffer(buffered)?),
        Compression::None => Box::new(buffered),
    };
    Ok(Inflated { inner, count: 0, compressed })
}

/// Unpacks a stream into an empty directory, keeping the stream itself in `blob`.
pub fn unpack(
    stream: impl Read,
    blob: Option<&mut File>,
    directory: &Path,
    limits: Limits,
) -> Result<Unpacked, unpack::Error> {
    let mut tee = Tee { inner: stream, hash: Sha256::new(), copy: blob };
    let (diff_id, implied) = {
        let inner = inflate(&mut tee).map_err(unpack::Error::Read)?;
        let mut contents = Tee { inner, hash: Sha256::new(), copy: None };
        let unpacked = unpack::unpack(&mut contents, directory, limits)?;
        // The digest covers what follows the archive's end, too.
        io::copy(&mut contents, &mut io::sink()).map_err(unpack::Error::Read)?;
        (digest_text(contents.hash), unpacked.implied)
    };
    io::copy(&mut tee, &mut io::sink()).map_err(unpack::Error::Read)?;
    Ok(Unpacked { digest: digest_text(tee.hash), diff_id, implied })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tar() -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(5);
        header.set_mode(0o644);
        header.set_uid(rustix::process::geteuid().as_raw().into());
        header.set_gid(rustix::process::getegid().as_raw().into());
        builder.append_data(&mut header, "greeting", &b"hello"[..]).unwrap();
        builder.into_inner().unwrap()
    }

    #[test]
    fn plain_gzip_and_zstd_have_the_same_contents() {
        let tar = tar();
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&tar).unwrap();
        for stream in [tar.clone(), gzip.finish().unwrap(), zstd::encode_all(tar.as_slice(), 1).unwrap()] {
            let dir = tempfile::tempdir().unwrap();
            let mut blob = tempfile::tempfile().unwrap();
            let done = unpack(stream.as_slice(), Some(&mut blob), dir.path(), Limits::default()).unwrap();
            assert_eq!((done.digest, done.diff_id), (sha256(&stream), sha256(&tar)));
            assert_eq!(blob.metadata().unwrap().len(), stream.len() as u64);
            assert_eq!(std::fs::read_to_string(dir.path().join("greeting")).unwrap(), "hello");
        }
    }

    #[test]
    fn streams_of_several_members_and_frames_are_one() {
        let tar = tar();
        let (head, tail) = tar.split_at(700);
        let member = |part: &[u8]| {
            let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            gzip.write_all(part).unwrap();
            gzip.finish().unwrap()
        };
        let frame = |part: &[u8]| zstd::encode_all(part, 1).unwrap();
        for stream in [[member(head), member(tail)].concat(), [frame(head), frame(tail)].concat()] {
            let dir = tempfile::tempdir().unwrap();
            let done = unpack(stream.as_slice(), None, dir.path(), Limits::default()).unwrap();
            assert_eq!((done.digest, done.diff_id), (sha256(&stream), sha256(&tar)));
            assert_eq!(std::fs::read_to_string(dir.path().join("greeting")).unwrap(), "hello");
        }
    }

    #[test]
    fn what_grows_beyond_measure_is_a_bomb() {
        // zstd has no bound on how small zeros become.
        let zeros = io::repeat(0).take(RATIO_FROM + (64 << 20));
        let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
        encoder.window_log(27).unwrap();
        io::copy(&mut { zeros }, &mut encoder).unwrap();
        let stream = encoder.finish().unwrap();
        let error = io::copy(&mut inflate(stream.as_slice()).unwrap(), &mut io::sink()).unwrap_err();
        assert!(error.to_string().contains("bomb"), "{error} at {} bytes", stream.len());
    }

    #[test]
    fn a_torn_stream_is_an_error() {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&tar()).unwrap();
        let mut stream = gzip.finish().unwrap();
        stream.truncate(stream.len() / 2);
        let dir = tempfile::tempdir().unwrap();
        assert!(unpack(stream.as_slice(), None, dir.path(), Limits::default()).is_err());
    }
}
