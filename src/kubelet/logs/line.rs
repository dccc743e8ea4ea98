//! One line of a log file: `TIME stdout|stderr F|P CONTENT`, the format of the CRI.

use jiff::Timestamp;

use crate::api::node::LogOptions;

/// A parsed line, borrowed from the file's bytes.
#[derive(Debug, PartialEq, Eq)]
pub struct Line<'a> {
    /// As written, nine digits of fraction.
    pub time: &'a str,
    /// `stdout` or `stderr`.
    pub stream: &'a str,
    /// A part of a longer line: no newline follows.
    pub partial: bool,
    /// What the container wrote.
    pub content: &'a [u8],
}

impl<'a> Line<'a> {
    /// Reads a line without its newline; `None` when it is damaged, as after a power loss.
    pub fn parse(bytes: &'a [u8]) -> Option<Line<'a>> {
        let mut fields = bytes.splitn(4, |byte| *byte == b' ');
        let mut text = || std::str::from_utf8(fields.next()?).ok();
        let (time, stream, tags) = (text()?, text()?, text()?);
        // The format allows more tags after a colon.
        let partial = match tags.split(':').next()? {
            "F" => false,
            "P" => true,
            _ => return None,
        };
        let known = matches!(stream, "stdout" | "stderr") && time.len() >= "2000-01-01T00:00:00Z".len();
        known.then(|| Line { time, stream, partial, content: fields.next().unwrap_or_default() })
    }
}

/// Which lines are shown, how, and how many bytes of them.
#[derive(Debug)]
pub struct Filter {
    since: Option<Timestamp>,
    stream: Option<&'static str>,
    timestamps: bool,
    left: Option<u64>,
    /// The last line written was whole, so that the next one may begin with its time.
    fresh: bool,
}

impl Filter {
    /// The filter that options ask for at this moment.
    pub fn new(options: &LogOptions, now: Timestamp) -> Filter {
        let ago = |seconds| now.checked_sub(jiff::SignedDuration::from_secs(seconds)).ok();
        let stream = match options.stream.as_deref() {
            Some("Stdout") => Some("stdout"),
            Some("Stderr") => Some("stderr"),
            _ => None,
        };
        Filter {
            since: options.since_time.or_else(|| options.since_seconds.and_then(ago)),
            stream,
            timestamps: options.timestamps,
            left: options.limit_bytes,
            fresh: true,
        }
    }

    /// Only lines from this moment on are shown.
    pub fn since(&self) -> Option<Timestamp> {
        self.since
    }

    /// Everything that the options allow has been written.
    pub fn is_full(&self) -> bool {
        self.left == Some(0)
    }

    /// Adds to `out` what is shown of these whole lines.
    pub fn write(&mut self, lines: &[u8], out: &mut Vec<u8>) {
        let start = out.len();
        for line in lines.split_inclusive(|byte| *byte == b'\n') {
            let line = line.strip_suffix(b"\n").unwrap_or(line);
            if let Some(line) = Line::parse(line).filter(|line| self.shows(line)) {
                self.write_line(&line, out);
            }
        }
        if let Some(left) = &mut self.left {
            let room = usize::try_from(*left).unwrap_or(usize::MAX);
            out.truncate(start.saturating_add(room));
            *left -= (out.len() - start) as u64;
        }
    }

    fn shows(&self, line: &Line<'_>) -> bool {
        let late = || self.since.is_none_or(|since| line.time.parse::<Timestamp>().is_ok_and(|t| t >= since));
        self.stream.is_none_or(|stream| stream == line.stream) && late()
    }

    fn write_line(&mut self, line: &Line<'_>, out: &mut Vec<u8>) {
        if self.timestamps && self.fresh {
            out.extend_from_slice(line.time.as_bytes());
            out.push(b' ');
        }
        out.extend_from_slice(line.content);
        if !line.partial {
            out.push(b'\n');
        }
        self.fresh = !line.partial;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &[u8] = b"2026-01-01T00:00:01.000000000Z stdout F one\n\
        2026-01-01T00:00:02.000000000Z stderr F oops\n\
        damaged\n\
        2026-01-01T00:00:03.000000000Z stdout P half, \n\
        2026-01-01T00:00:04.000000000Z stdout F whole\n\
        2026-01-01T00:00:05.000000000Z stdout F \n";

    fn shown(options: &LogOptions) -> String {
        let now = "2026-01-01T00:00:10Z".parse().unwrap();
        let mut out = Vec::new();
        Filter::new(options, now).write(LOG, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn lines_are_shown_as_asked() {
        let all = LogOptions::default();
        let cases = [
            (all.clone(), "one\noops\nhalf, whole\n\n"),
            (LogOptions { stream: Some("All".into()), ..all.clone() }, "one\noops\nhalf, whole\n\n"),
            (LogOptions { stream: Some("Stdout".into()), ..all.clone() }, "one\nhalf, whole\n\n"),
            (LogOptions { stream: Some("Stderr".into()), ..all.clone() }, "oops\n"),
            (LogOptions { since_seconds: Some(6), ..all.clone() }, "whole\n\n"),
            (LogOptions { since_time: "2026-01-01T00:00:05Z".parse().ok(), ..all.clone() }, "\n"),
            (LogOptions { limit_bytes: Some(6), ..all.clone() }, "one\noo"),
            (LogOptions { limit_bytes: Some(0), ..all.clone() }, ""),
            (
                LogOptions { timestamps: true, since_seconds: Some(7), ..all },
                "2026-01-01T00:00:03.000000000Z half, whole\n2026-01-01T00:00:05.000000000Z \n",
            ),
        ];
        for (options, expected) in cases {
            assert_eq!(shown(&options), expected, "{options:?}");
        }
    }

    #[test]
    fn damaged_lines_are_none() {
        for line in
            ["", "\0\0\0", "a b c d", "2026-01-01T00:00:01Z stdout X y", "2026-01-01T00:00:01Z stdin F y"]
        {
            assert_eq!(Line::parse(line.as_bytes()), None, "{line}");
        }
        let tagged = Line::parse(b"2026-01-01T00:00:01Z stdout P:more x").unwrap();
        assert!(tagged.partial);
    }
}
