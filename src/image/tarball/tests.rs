//! Streams made by hand and by Python: what others read must be read the same, what they dispute is refused.

use super::*;

fn header(name: &str, kind: u8, size: u64) -> Header {
    let mut header = Header::new_ustar();
    header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
    header.as_old_mut().linkflag = [kind];
    header.set_size(size);
    header.set_mode(0o644);
    header.set_uid(1);
    header.set_gid(2);
    header.set_mtime(3);
    header.set_cksum();
    header
}

/// A header and its content, padded.
fn member(name: &str, kind: u8, content: &[u8]) -> Vec<u8> {
    let mut bytes = header(name, kind, content.len() as u64).as_bytes().to_vec();
    bytes.extend_from_slice(content);
    bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
    bytes
}

fn pax(records: &[(&str, &[u8])]) -> Vec<u8> {
    member("pax", b'x', &body(records))
}

fn body(records: &[(&str, &[u8])]) -> Vec<u8> {
    let mut body = Vec::new();
    for (key, value) in records {
        let rest = key.len() + value.len() + 3;
        // The length counts its own digits.
        let length = (rest + 1..).find(|n| n.to_string().len() + rest == *n).unwrap();
        body.extend_from_slice(format!("{length} {key}=").as_bytes());
        body.extend_from_slice(value);
        body.push(b'\n');
    }
    body
}

fn read(bytes: &[u8]) -> Result<Vec<Entry>, Error> {
    let mut reader = Reader::new(bytes);
    let mut entries = Vec::new();
    while let Some(entry) = reader.entry()? {
        entries.push(entry);
    }
    Ok(entries)
}

fn one(parts: &[Vec<u8>]) -> Entry {
    read(&parts.concat()).unwrap().remove(0)
}

#[track_caller]
fn bad(parts: &[Vec<u8>], reason: &str) {
    let error = read(&parts.concat()).expect_err(reason).to_string();
    assert!(error.contains(reason), "{error:?} lacks {reason:?}");
}

#[test]
fn extensions_are_applied_and_values_are_whole() {
    let binary = [1, 0, 0, 2, b'\n', 0, 7, b'='];
    let entry = one(&[
        pax(&[
            ("path", b"a\nlong name"),
            ("uid", b"3000000000"),
            ("mtime", b"5.25"),
            ("SCHILY.xattr.security.capability", &binary),
            ("VENDOR.unknown", b"\n\n"),
            ("gid", b""),
        ]),
        member("short", b'0', b"content"),
    ]);
    assert_eq!((entry.path.as_slice(), entry.size), (&b"a\nlong name"[..], 7));
    assert_eq!((entry.uid, entry.gid, entry.mtime), (3_000_000_000, 2, (5, 250_000_000)));
    assert_eq!(entry.xattrs, [("security.capability".to_owned(), binary.to_vec())]);
    let entry = one(&[member("l", b'L', b"long\0"), member("k", b'K', b"target\0"), member("x", b'2', b"")]);
    assert_eq!((entry.path.as_slice(), entry.link.as_deref()), (&b"long"[..], Some(&b"target"[..])));
    let old = one(&[member("directory/", 0, b"")]);
    assert_eq!(old.kind, EntryType::Directory);
    let global = member("g", b'g', &body(&[("comment", b"0123")]));
    assert_eq!(one(&[global, member("a", b'0', b"")]).path, b"a");
}

#[test]
fn what_readers_dispute_is_refused() {
    let file = || member("a", b'0', b"12");
    bad(&[pax(&[("path", b"x"), ("path", b"y")]), file()], "path comes twice");
    bad(&[pax(&[("size", b"2"), ("size", b"2")]), file()], "size comes twice");
    bad(&[pax(&[("path", b"x")]), pax(&[("path", b"y")]), file()], "two groups");
    bad(&[member("l", b'L', b"x"), member("l", b'L', b"y"), file()], "two names");
    bad(&[member("l", b'L', b"x"), pax(&[("path", b"y")]), file()], "two names");
    bad(&[pax(&[("size", b"1")]), file()], "its header says 2 bytes, its extension 1");
    bad(&[pax(&[("size", b"9000000000")]), file()], "its header says 2 bytes");
    bad(&[pax(&[("GNU.sparse.major", b"1")]), file()], "sparse");
    for (key, value) in
        [("uid", "-1"), ("uid", "4294967296"), ("gid", "x"), ("mtime", "soon"), ("size", "+2")]
    {
        bad(&[pax(&[(key, value.as_bytes())]), file()], &format!("extension {key} is no"));
    }
    bad(&[pax(&[("path", b"a\0b")]), file()], "zero byte");
    bad(&[member("p", b'x', b"3 a=b\n"), file()], "damaged");
    for kind in b"123456" {
        bad(&[member("a", *kind, b"hidden")], "no content by its type, and 6 bytes");
    }
    bad(&[member("a/", b'0', b"")], "ends with a slash");
    bad(&[member("g", b'g', &body(&[("path", b"all")])), file()], "a global extension sets path");
    bad(&[pax(&[("path", b"x")]), member("g", b'g', b""), file()], "followed by a global one");
    bad(&[pax(&[("path", b"x")])], "followed by nothing");
    bad(&[file(), vec![0; BLOCK], file()], "single block of zeros");
    bad(&[header("x", b'x', EXTENSION_MAX + 1).as_bytes().to_vec()], "more than 1048576 bytes");
    let mut header = header("a", b'0', 0);
    header.as_old_mut().cksum[0] = b'7';
    bad(&[header.as_bytes().to_vec()], "checksum");
}

#[test]
fn the_end_is_two_blocks_of_zeros_or_the_end_of_the_stream() {
    let file = member("a", b'0', b"12");
    let zeros = vec![0; BLOCK];
    for end in [vec![], zeros.clone(), [zeros.clone(), zeros.clone(), file.clone()].concat()] {
        assert_eq!(read(&[file.clone(), end].concat()).unwrap().len(), 1);
    }
    for cut in [100, BLOCK + 1, BLOCK + 100] {
        assert!(matches!(read(&file[..cut]), Err(Error::Read(_))), "{cut}");
    }
}

#[test]
fn numbers_are_octal_or_twos_complement() {
    let cases: [(&[u8], Result<i64, ()>); 9] = [
        (b"0000644\0", Ok(0o644)),
        (b"   644 \0", Ok(0o644)),
        (b"\0\0\0\0\0\0\0\0", Ok(0)),
        (b"\x80\0\0\0\0\0\x01\0", Ok(256)),
        (b"\xff\xff\xff\xff\xff\xff\xff\xfe", Ok(-2)),
        (b"\x80\x01\0\0\0\0\0\0\0\0\0\0", Err(())),
        (b"+000644\0", Err(())),
        (b"0000648\0", Err(())),
        (b"-1\0\0\0\0\0\0", Err(())),
    ];
    for (field, expected) in cases {
        assert_eq!(number(field).map_err(drop), expected, "{field:?}");
    }
}

#[test]
fn a_size_beyond_octal_comes_from_the_extension() {
    let bytes = [pax(&[("size", b"9000000000")]), member("a", b'0', b"")].concat();
    let mut reader = Reader::new(bytes.as_slice());
    assert_eq!(reader.entry().unwrap().unwrap().size, 9_000_000_000);
    assert!(matches!(reader.entry(), Err(Error::Read(_))), "the content is missing");
}

/// Writes archives in all of Python's formats and prints what Python reads out of them: one line an entry.
const PYTHON: &str = r#"
import io, sys, tarfile
format = {"pax": tarfile.PAX_FORMAT, "gnu": tarfile.GNU_FORMAT, "ustar": tarfile.USTAR_FORMAT}[sys.argv[1]]
out = io.BytesIO()
archive = tarfile.open(fileobj=out, mode="w", format=format)
def add(name, kind=tarfile.REGTYPE, link="", content=b"", **more):
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, len(content)
    for key, value in more.items():
        setattr(info, key, value)
    archive.addfile(info, io.BytesIO(content))
add("plain", content=b"hello", mtime=1700000000, uid=1000, gid=1001, mode=0o4755)
add("d" * 90 + "/" + "f" * 90, content=b"x" * 1025)
add("directory", kind=tarfile.DIRTYPE, mode=0o1777)
add("symbolic", kind=tarfile.SYMTYPE, link="../target")
add("hard", kind=tarfile.LNKTYPE, link="plain")
add("device", kind=tarfile.CHRTYPE, devmajor=1, devminor=3)
add("fifo", kind=tarfile.FIFOTYPE)
if format != tarfile.USTAR_FORMAT:
    add("l" * 300, content=b"y" * 512)
    add("longlink", kind=tarfile.SYMTYPE, link="t" * 300)
    add("n\u00e4me\u2603", content=b"z")
    add("large", uid=3000000, gid=3000001)
if format == tarfile.PAX_FORMAT:
    add("times", mtime=1.25)
    add("attributes", pax_headers={"SCHILY.xattr.user.a": "one\ntwo=three"}, content=b"w")
archive.close()
data = out.getvalue()
for e in tarfile.open(fileobj=io.BytesIO(data)):
    print(e.name, e.type.decode(), e.linkname, oct(e.mode), e.uid, e.gid, float(e.mtime), e.size, e.devmajor, e.devminor, sep="|")
sys.stdout.flush()
sys.stdout.buffer.write(b"\0" + data)
"#;

#[test]
fn python_reads_the_same_out_of_what_it_writes() {
    for format in ["pax", "gnu", "ustar"] {
        let out = crate::sys::program::run("python3", &["-c", PYTHON, format], b"").unwrap();
        let end = out.iter().position(|byte| *byte == 0).unwrap();
        let expected = String::from_utf8(out[..end].to_vec()).unwrap();
        let shown: Vec<String> = read(&out[end + 1..])
            .unwrap()
            .iter()
            .map(|e| {
                format!(
                    "{}|{}|{}|0o{:o}|{}|{}|{:?}|{}|{}|{}",
                    String::from_utf8_lossy(&e.path).trim_end_matches('/'),
                    char::from(e.kind.as_byte()),
                    String::from_utf8_lossy(e.link.as_deref().unwrap_or_default()),
                    e.mode,
                    e.uid,
                    e.gid,
                    e.mtime.0 as f64 + f64::from(e.mtime.1) / 1e9,
                    e.size,
                    e.device.0,
                    e.device.1
                )
            })
            .collect();
        assert_eq!(shown, expected.lines().collect::<Vec<_>>(), "{format}");
    }
}
