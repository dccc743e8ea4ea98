//! SPDY/3.1 frames as bytes (SPDY protocol draft 3, sections 2.2 and 2.6).

use bytes::{BufMut, Bytes, BytesMut};
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};

/// The protocol's version in control frames.
const VERSION: u16 = 3;
/// The largest frame that is accepted.
const FRAME_BYTES: usize = 1 << 20;
/// The largest block of headers, inflated.
const HEADER_BYTES: usize = 64 << 10;
/// No more data comes from the sender of the frame.
const FIN: u8 = 1;

/// Header names and values of the dictionary that come with their lengths.
const WORDS: &str = "options head post put delete trace accept accept-charset accept-encoding accept-language \
    accept-ranges age allow authorization cache-control connection content-base content-encoding \
    content-language content-length content-location content-md5 content-range content-type date etag expect \
    expires from host if-match if-modified-since if-none-match if-range if-unmodified-since last-modified \
    location max-forwards pragma proxy-authenticate proxy-authorization range referer retry-after server te \
    trailer transfer-encoding upgrade user-agent vary via warning www-authenticate method get status 200_OK \
    version HTTP/1.1 url public set-cookie keep-alive origin";
/// The rest of the dictionary.
const TEXT: &str = "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505\
    203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized\
    403 Forbidden404 Not Found500 Internal Server Error501 Not Implemented503 Service Unavailable\
    Jan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMT\
    chunked,text/html,image/png,image/jpg,image/gif,application/xml,application/xhtml+xml,text/plain,\
    text/javascript,publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0.";

/// What both ends know of headers before the first one is sent (section 2.6.10.1).
fn dictionary() -> Vec<u8> {
    let mut bytes = Vec::with_capacity(1423);
    for word in WORDS.split(' ').map(|word| word.replace('_', " ")) {
        bytes.extend_from_slice(&(word.len() as u32).to_be_bytes());
        bytes.extend_from_slice(word.as_bytes());
    }
    bytes.extend_from_slice(TEXT.as_bytes());
    bytes
}

/// Header names (lower-case) and values.
pub type Headers = Vec<(String, String)>;

/// One frame; those without meaning here are `Other`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// Opens a stream.
    SynStream { stream: u32, fin: bool, headers: Headers },
    /// Accepts it.
    SynReply { stream: u32 },
    /// Ends it at once.
    Reset { stream: u32, status: u32 },
    /// The new initial window, when the settings name one.
    Settings { window: Option<u32> },
    /// Comes back as it is.
    Ping { id: u32 },
    /// The sender makes no more streams.
    GoAway,
    /// So many more bytes may be sent.
    WindowUpdate { stream: u32, delta: u32 },
    /// Bytes of a stream.
    Data { stream: u32, fin: bool, bytes: Bytes },
    /// Anything else.
    Other,
}

/// Why bytes are no frame.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Larger than allowed.
    #[error("a spdy frame of {0} bytes is too large")]
    TooLarge(usize),
    /// Its fields do not fit together.
    #[error("a spdy frame of type {0} is damaged")]
    Damaged(u16),
}

/// One direction's state: all its header blocks are one compressed stream.
pub struct Decoder(Decompress);

/// The other direction's state.
pub struct Encoder(Compress);

impl Default for Decoder {
    fn default() -> Decoder {
        Decoder(Decompress::new(true))
    }
}

impl Default for Encoder {
    fn default() -> Encoder {
        let mut compress = Compress::new(Compression::default(), true);
        // A fresh zlib stream takes any dictionary.
        let _ = compress.set_dictionary(&dictionary());
        Encoder(compress)
    }
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

impl Decoder {
    /// Takes the next frame from the buffer, when it is complete.
    pub fn next(&mut self, buffer: &mut BytesMut) -> Result<Option<Frame>, Error> {
        let (Some(first), Some(second)) = (number(buffer, 0), number(buffer, 4)) else { return Ok(None) };
        let (flags, length) = ((second >> 24) as u8, (second & 0x00ff_ffff) as usize);
        if length > FRAME_BYTES {
            return Err(Error::TooLarge(length));
        }
        if buffer.len() < 8 + length {
            return Ok(None);
        }
        let body = buffer.split_to(8 + length).freeze().slice(8..);
        let fin = flags & FIN != 0;
        if first >> 31 == 0 {
            return Ok(Some(Frame::Data { stream: first, fin, bytes: body }));
        }
        let kind = first as u16;
        self.control(kind, fin, &body).ok_or(Error::Damaged(kind)).map(Some)
    }

    fn control(&mut self, kind: u16, fin: bool, body: &[u8]) -> Option<Frame> {
        let stream = |at| number(body, at).map(|id| id & 0x7fff_ffff);
        Some(match kind {
            1 => Frame::SynStream { stream: stream(0)?, fin, headers: self.headers(body.get(10..)?)? },
            2 => {
                // The block must be inflated in any case, to keep the state.
                self.headers(body.get(4..)?)?;
                Frame::SynReply { stream: stream(0)? }
            }
            3 => Frame::Reset { stream: stream(0)?, status: number(body, 4)? },
            4 => {
                const INITIAL_WINDOW: u32 = 7;
                let entries = body.get(4..)?.chunks_exact(8);
                let window = entries
                    .filter(|entry| number(entry, 0).is_some_and(|id| id & 0x00ff_ffff == INITIAL_WINDOW))
                    .find_map(|entry| number(entry, 4));
                Frame::Settings { window }
            }
            6 => Frame::Ping { id: number(body, 0)? },
            7 => Frame::GoAway,
            8 => {
                self.headers(body.get(4..)?)?;
                Frame::Other
            }
            9 => Frame::WindowUpdate { stream: stream(0)?, delta: number(body, 4)? & 0x7fff_ffff },
            _ => Frame::Other,
        })
    }

    fn headers(&mut self, block: &[u8]) -> Option<Headers> {
        let plain = self.inflate(block)?;
        let mut at = 0;
        let mut take = |what: Option<usize>| -> Option<(u32, usize)> {
            let length = what.unwrap_or(4);
            let start = at;
            at += length;
            (at <= plain.len()).then_some((if what.is_none() { number(&plain, start)? } else { 0 }, start))
        };
        let (count, _) = take(None)?;
        let mut headers = Vec::new();
        for _ in 0..count {
            let mut text = || {
                let (length, _) = take(None)?;
                let length = usize::try_from(length).ok()?.min(HEADER_BYTES + 1);
                let (_, start) = take(Some(length))?;
                Some(String::from_utf8_lossy(&plain[start..start + length]).into_owned())
            };
            headers.push((text()?, text()?));
        }
        Some(headers)
    }

    fn inflate(&mut self, block: &[u8]) -> Option<Vec<u8>> {
        let mut plain = Vec::with_capacity(1024);
        let mut rest = block;
        loop {
            if plain.len() > HEADER_BYTES {
                return None;
            }
            plain.reserve(1024);
            let (read, written) = (self.0.total_in(), self.0.total_out());
            let result = self.0.decompress_vec(rest, &mut plain, FlushDecompress::Sync);
            rest = rest.get((self.0.total_in() - read) as usize..)?;
            match result {
                Ok(_) if rest.is_empty() && plain.len() < plain.capacity() => return Some(plain),
                Ok(_) if self.0.total_in() == read && self.0.total_out() == written => {
                    return rest.is_empty().then_some(plain);
                }
                Ok(_) => {}
                Err(error) if error.needs_dictionary().is_some() => {
                    self.0.set_dictionary(&dictionary()).ok()?;
                }
                Err(_) => return None,
            }
        }
    }
}

impl Encoder {
    /// A frame as bytes; `Other` is none.
    pub fn bytes(&mut self, frame: &Frame) -> Bytes {
        match frame {
            Frame::SynStream { stream, fin, headers } => {
                let mut body = stream.to_be_bytes().to_vec();
                body.extend_from_slice(&[0; 6]);
                body.extend(self.headers(headers));
                control(1, u8::from(*fin), &body)
            }
            Frame::SynReply { stream } => {
                let mut body = stream.to_be_bytes().to_vec();
                body.extend(self.headers(&Vec::new()));
                control(2, 0, &body)
            }
            Frame::Reset { stream, status } => control(3, 0, &pair(*stream, *status)),
            Frame::Settings { window } => match window {
                Some(window) => control(4, 0, &[&1u32.to_be_bytes()[..], &pair(7, *window)].concat()),
                None => control(4, 0, &[0; 4]),
            },
            Frame::Ping { id } => control(6, 0, &id.to_be_bytes()),
            Frame::GoAway => control(7, 0, &pair(0, 0)),
            Frame::WindowUpdate { stream, delta } => control(9, 0, &pair(*stream, *delta)),
            Frame::Data { stream, fin, bytes } => {
                let mut frame = BytesMut::with_capacity(8 + bytes.len());
                frame.put_u32(stream & 0x7fff_ffff);
                frame.put_u32(u32::from(*fin) << 24 | bytes.len() as u32 & 0x00ff_ffff);
                frame.put_slice(bytes);
                frame.freeze()
            }
            Frame::Other => Bytes::new(),
        }
    }

    fn headers(&mut self, headers: &Headers) -> Vec<u8> {
        let mut plain = (headers.len() as u32).to_be_bytes().to_vec();
        for text in headers.iter().flat_map(|(name, value)| [name, value]) {
            plain.extend_from_slice(&(text.len() as u32).to_be_bytes());
            plain.extend_from_slice(text.as_bytes());
        }
        // Room for the worst case, so that one call does it.
        let mut block = Vec::with_capacity(plain.len() * 2 + 1024);
        let _ = self.0.compress_vec(&plain, &mut block, FlushCompress::Sync);
        block
    }
}

fn pair(first: u32, second: u32) -> Vec<u8> {
    [first.to_be_bytes(), second.to_be_bytes()].concat()
}

fn control(kind: u16, flags: u8, body: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(8 + body.len());
    frame.put_u16(0x8000 | VERSION);
    frame.put_u16(kind);
    frame.put_u32(u32::from(flags) << 24 | body.len() as u32 & 0x00ff_ffff);
    frame.put_slice(body);
    frame.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dictionary_is_that_of_the_protocol() {
        let (mut a, mut b) = (1u32, 0u32);
        for byte in dictionary() {
            a = (a + u32::from(byte)) % 65521;
            b = (b + a) % 65521;
        }
        assert_eq!(b << 16 | a, 0xe3c6_a7c2);
    }

    #[test]
    fn frames_survive_the_way_and_headers_share_one_compressor() {
        let headers = |id: &str| {
            vec![("streamtype".to_owned(), "data".to_owned()), ("requestid".to_owned(), id.to_owned())]
        };
        let frames = [
            Frame::SynStream { stream: 1, fin: true, headers: headers("0") },
            Frame::SynStream { stream: 3, fin: false, headers: headers("1") },
            Frame::SynReply { stream: 3 },
            Frame::Reset { stream: 3, status: 5 },
            Frame::Settings { window: Some(70_000) },
            Frame::Ping { id: 7 },
            Frame::GoAway,
            Frame::WindowUpdate { stream: 3, delta: 9 },
            Frame::Data { stream: 3, fin: true, bytes: Bytes::from_static(b"hello") },
        ];
        let (mut encoder, mut decoder) = (Encoder::default(), Decoder::default());
        let mut buffer = BytesMut::new();
        for frame in &frames {
            // Byte by byte: a part of a frame is no frame.
            let bytes = encoder.bytes(frame);
            for (index, byte) in bytes.iter().enumerate() {
                buffer.put_u8(*byte);
                let expected = (index + 1 == bytes.len()).then(|| frame.clone());
                assert_eq!(decoder.next(&mut buffer).unwrap(), expected);
            }
        }
    }

    #[test]
    fn bytes_on_the_wire() {
        let mut encoder = Encoder::default();
        let cases: [(Frame, &[u8]); 3] = [
            (Frame::Ping { id: 1 }, &[0x80, 3, 0, 6, 0, 0, 0, 4, 0, 0, 0, 1]),
            (Frame::Reset { stream: 5, status: 3 }, &[0x80, 3, 0, 3, 0, 0, 0, 8, 0, 0, 0, 5, 0, 0, 0, 3]),
            (
                Frame::Data { stream: 5, fin: true, bytes: Bytes::from_static(b"x") },
                &[0, 0, 0, 5, 1, 0, 0, 1, b'x'],
            ),
        ];
        for (frame, bytes) in cases {
            assert_eq!(encoder.bytes(&frame), bytes);
        }
        let mut damaged = BytesMut::from(&[0x80, 3, 0, 1, 0, 0, 0, 4, 0, 0, 0, 1][..]);
        assert!(Decoder::default().next(&mut damaged).is_err());
        let mut huge = BytesMut::from(&[0, 0, 0, 1, 0, 255, 255, 255][..]);
        assert!(Decoder::default().next(&mut huge).is_err());
    }
}
