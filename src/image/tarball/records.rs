//! What stands before an entry's header: PAX records, and the long names of GNU tar (pure).

use std::collections::BTreeSet;

/// PAX records that carry extended attributes.
const XATTR: &[u8] = b"SCHILY.xattr.";
/// PAX records that say that a file's content is a map of its holes.
const SPARSE: &[u8] = b"GNU.sparse.";

/// What extensions say about the next entry.
#[derive(Debug, Default)]
pub struct Extensions {
    /// Its name.
    pub path: Option<Vec<u8>>,
    /// What it links to.
    pub link: Option<Vec<u8>>,
    /// Bytes of its content.
    pub size: Option<u64>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Seconds and nanoseconds.
    pub mtime: Option<(i64, u32)>,
    /// Extended attributes.
    pub xattrs: Vec<(String, Vec<u8>)>,
    /// Whether PAX records came; a second group of them is refused.
    pax: bool,
}

impl Extensions {
    /// Whether nothing came.
    pub fn is_empty(&self) -> bool {
        !self.pax && self.path.is_none() && self.link.is_none()
    }

    /// Takes a group of PAX records. An empty value leaves the header's; unknown keys say nothing here.
    pub fn pax(&mut self, bytes: &[u8]) -> Result<(), String> {
        if std::mem::replace(&mut self.pax, true) {
            return Err("two groups of extension records stand before one entry".to_owned());
        }
        for (key, value) in records(bytes)? {
            if key.starts_with(SPARSE) {
                return Err("sparse files are not supported in layers".to_owned());
            }
            if let Some(name) = key.strip_prefix(XATTR) {
                let name = std::str::from_utf8(name).ok().filter(|name| !name.contains('\0'));
                let name = name.ok_or("an extended attribute has a name that is not plain text")?;
                self.xattrs.push((name.to_owned(), value.to_vec()));
                continue;
            }
            if value.is_empty() {
                continue;
            }
            match key {
                b"path" => set(&mut self.path, name(value)?, "names")?,
                b"linkpath" => set(&mut self.link, name(value)?, "link targets")?,
                b"size" => self.size = Some(decimal(key, value)?),
                b"uid" => self.uid = Some(decimal(key, value)?),
                b"gid" => self.gid = Some(decimal(key, value)?),
                b"mtime" => self.mtime = Some(time(value).ok_or_else(|| not_a(key, "time", value))?),
                _ => {}
            }
        }
        Ok(())
    }

    /// Takes the content of a GNU entry that holds a name.
    pub fn long_path(&mut self, bytes: Vec<u8>) -> Result<(), String> {
        set(&mut self.path, super::text(&bytes).to_vec(), "names")
    }

    /// Takes the content of a GNU entry that holds a link's target.
    pub fn long_link(&mut self, bytes: Vec<u8>) -> Result<(), String> {
        set(&mut self.link, super::text(&bytes).to_vec(), "link targets")
    }
}

/// Records for all further entries: some readers heed them and some do not, so none may matter.
pub fn check_global(bytes: &[u8]) -> Result<(), String> {
    let matters = |key: &[u8]| matches!(key, b"path" | b"linkpath" | b"size") || key.starts_with(SPARSE);
    match records(bytes)?.iter().find(|(key, _)| matters(key)) {
        Some((key, _)) => {
            Err(format!("a global extension sets {} for all entries", String::from_utf8_lossy(key)))
        }
        None => Ok(()),
    }
}

fn set(place: &mut Option<Vec<u8>>, value: Vec<u8>, what: &str) -> Result<(), String> {
    match place.replace(value) {
        Some(_) => Err(format!("its extensions give it two {what}")),
        None => Ok(()),
    }
}

fn name(value: &[u8]) -> Result<Vec<u8>, String> {
    if value.contains(&0) {
        return Err("a name in an extension holds a zero byte".to_owned());
    }
    Ok(value.to_vec())
}

fn not_a(key: &[u8], what: &str, value: &[u8]) -> String {
    format!("extension {} is no {what}: {:?}", String::from_utf8_lossy(key), String::from_utf8_lossy(value))
}

fn digits(bytes: &[u8]) -> Option<&str> {
    let plain = !bytes.is_empty() && bytes.iter().all(u8::is_ascii_digit);
    plain.then(|| std::str::from_utf8(bytes).ok()).flatten()
}

fn decimal<T: std::str::FromStr>(key: &[u8], value: &[u8]) -> Result<T, String> {
    digits(value).and_then(|text| text.parse().ok()).ok_or_else(|| not_a(key, "number in range", value))
}

/// `-12.5` as seconds and the nanoseconds after those: (-13, 500000000).
fn time(value: &[u8]) -> Option<(i64, u32)> {
    let (negative, value) = value.strip_prefix(b"-").map_or((false, value), |rest| (true, rest));
    let mut parts = value.splitn(2, |byte| *byte == b'.');
    let whole: i64 = digits(parts.next()?)?.parse().ok()?;
    let nanos: u32 = match parts.next() {
        None | Some(b"") => 0,
        Some(fraction) => format!("{:0<9.9}", digits(fraction)?).parse().ok()?,
    };
    Some(match (negative, nanos) {
        (false, nanos) => (whole, nanos),
        (true, 0) => (-whole, 0),
        (true, nanos) => (-whole - 1, 1_000_000_000 - nanos),
    })
}

/// A record's key and value.
type Record<'a> = (&'a [u8], &'a [u8]);

/// `LENGTH KEY=VALUE\n` one after the other; the length decides, whatever the value holds. A key comes once.
fn records(mut bytes: &[u8]) -> Result<Vec<Record<'_>>, String> {
    let mut found = Vec::new();
    let mut seen = BTreeSet::new();
    while !bytes.is_empty() {
        let (record, rest) = split_record(bytes).ok_or("an extension record is damaged")?;
        if !seen.insert(record.0) {
            return Err(format!("extension {} comes twice", String::from_utf8_lossy(record.0)));
        }
        found.push(record);
        bytes = rest;
    }
    Ok(found)
}

fn split_record(bytes: &[u8]) -> Option<(Record<'_>, &[u8])> {
    let space = bytes.iter().position(|byte| *byte == b' ')?;
    let length: usize = digits(&bytes[..space])?.parse().ok()?;
    let record = bytes.get(space + 1..length)?.strip_suffix(b"\n")?;
    let equals = record.iter().position(|byte| *byte == b'=').filter(|at| *at > 0)?;
    Some(((&record[..equals], &record[equals + 1..]), &bytes[length..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_fractions_and_signs() {
        let cases: [(&str, Option<(i64, u32)>); 9] = [
            ("0", Some((0, 0))),
            ("1700000000.25", Some((1_700_000_000, 250_000_000))),
            ("1.1234567891", Some((1, 123_456_789))),
            ("7.", Some((7, 0))),
            ("-1", Some((-1, 0))),
            ("-12.5", Some((-13, 500_000_000))),
            ("1e5", None),
            ("", None),
            ("99999999999999999999", None),
        ];
        for (text, expected) in cases {
            assert_eq!(time(text.as_bytes()), expected, "{text}");
        }
    }

    #[test]
    fn records_are_split_by_their_length() {
        let good = b"12 key=a\nb=\n9 other=\n";
        let found = records(good).unwrap();
        assert_eq!(found, [(&b"key"[..], &b"a\nb="[..]), (b"other", b"")]);
        for bad in ["5 a=b\n", "6 a=b", "7 ab=c", "x a=b\n", "4 ab\n", "5 =b\n", "6 a=b\n6 a=c\n", "-6 a=b\n"]
        {
            assert!(records(bad.as_bytes()).is_err(), "{bad:?}");
        }
        assert_eq!(records(b"6 a=b\n6 a=c\n").unwrap_err(), "extension a comes twice");
    }
}
