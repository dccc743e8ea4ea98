//! The body of a proxied page whose links are changed as it passes.

use std::io::{self, Write};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use flate2::write::{GzEncoder, MultiGzDecoder};
use hyper::body::{Body, Frame, Incoming};

use super::html::Page;
use super::rewrite::Rewriter;

/// How many compressed bytes are taken at a time.
const DECODED_AT_ONCE: usize = 1 << 10;

/// A page on its way through its encoding.
enum Coded {
    Plain(Page),
    Gzip(Box<Gzip>),
}

struct Gzip {
    page: Page,
    decoder: MultiGzDecoder<Vec<u8>>,
    encoder: GzEncoder<Vec<u8>>,
}

impl Gzip {
    fn new(page: Page) -> Gzip {
        let encoder = GzEncoder::new(Vec::new(), flate2::Compression::fast());
        Gzip { page, decoder: MultiGzDecoder::new(Vec::new()), encoder }
    }
}

impl Coded {
    fn push(&mut self, piece: &[u8]) -> io::Result<Vec<u8>> {
        match self {
            Coded::Plain(page) => Ok(page.push(piece)),
            Coded::Gzip(gzip) => {
                let Gzip { page, decoder, encoder } = &mut **gzip;
                // A thousand times as much may come out as went in: not all of it at once.
                for part in piece.chunks(DECODED_AT_ONCE) {
                    decoder.write_all(part)?;
                    decoder.flush()?;
                    encoder.write_all(&page.push(&std::mem::take(decoder.get_mut())))?;
                }
                // What has come so far is to be seen so far.
                encoder.flush()?;
                Ok(std::mem::take(encoder.get_mut()))
            }
        }
    }

    fn finish(self) -> io::Result<Vec<u8>> {
        match self {
            Coded::Plain(page) => Ok(page.finish()),
            Coded::Gzip(gzip) => {
                let Gzip { mut page, mut decoder, mut encoder } = *gzip;
                decoder.try_finish()?;
                encoder.write_all(&page.push(&std::mem::take(decoder.get_mut())))?;
                encoder.write_all(&page.finish())?;
                encoder.finish()
            }
        }
    }
}

/// The body of a page, rewritten piece by piece.
pub struct Rewritten {
    body: Incoming,
    coded: Option<Coded>,
}

impl Rewritten {
    /// Changes the links of a page that comes in this `Content-Encoding`; `Err` gives the body back when that is not known.
    pub fn new(body: Incoming, encoding: &str, rewriter: Rewriter) -> Result<Rewritten, Incoming> {
        let page = Page::new(rewriter);
        let coded = match encoding {
            "" | "identity" => Coded::Plain(page),
            "gzip" => Coded::Gzip(Box::new(Gzip::new(page))),
            _ => return Err(body),
        };
        Ok(Rewritten { body, coded: Some(coded) })
    }
}

impl Body for Rewritten {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        loop {
            let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
            let frame = match frame.transpose().map_err(io::Error::other) {
                Ok(frame) => frame,
                Err(error) => return Poll::Ready(Some(Err(error))),
            };
            let out = match frame.map(Frame::into_data) {
                Some(Ok(piece)) => match &mut self.coded {
                    Some(coded) => coded.push(&piece),
                    None => Ok(piece.to_vec()),
                },
                // Trailers are about a content that is no longer the same.
                Some(Err(_)) => continue,
                None => match self.coded.take() {
                    Some(coded) => coded.finish(),
                    None => return Poll::Ready(None),
                },
            };
            match out {
                Ok(out) if out.is_empty() => {}
                Ok(out) => return Poll::Ready(Some(Ok(Frame::data(out.into())))),
                Err(error) => {
                    self.coded = None;
                    return Poll::Ready(Some(Err(error)));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn a_compressed_page_is_compressed_again() {
        let rewriter = Rewriter { prefix: "/p".into(), backend: "b".into(), asked: "a".into() };
        let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(b"<a href=\"/x\">x</a>").unwrap();
        let packed = encoder.finish().unwrap();
        let mut coded = Coded::Gzip(Box::new(Gzip::new(Page::new(rewriter))));
        let mut out = Vec::new();
        for piece in packed.chunks(5) {
            out.extend(coded.push(piece).unwrap());
        }
        out.extend(coded.finish().unwrap());
        let mut text = String::new();
        flate2::read::GzDecoder::new(out.as_slice()).read_to_string(&mut text).unwrap();
        assert_eq!(text, "<a href=\"/p/x\">x</a>");
    }

    #[test]
    fn little_that_becomes_much_is_not_held_at_once() {
        let rewriter = Rewriter { prefix: "/p".into(), backend: "b".into(), asked: "a".into() };
        let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(&vec![b' '; 64 << 20]).unwrap();
        let packed = encoder.finish().unwrap();
        let mut coded = Coded::Gzip(Box::new(Gzip::new(Page::new(rewriter))));
        coded.push(&packed).unwrap();
        let Coded::Gzip(gzip) = &coded else { panic!("still compressed") };
        assert!(gzip.page.held() < 4 << 20, "{}", gzip.page.held());
    }
}
