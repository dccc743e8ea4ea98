//! Passwords as `htpasswd` writes them: parsed once, checked against what a client says.
//!
//! Understood are `$apr1$` and `$1$` (MD5), `$2a$`, `$2b$` and `$2y$` (bcrypt), `{SHA}`, `{SSHA}` and `{PLAIN}`; of others
//! it is said which would do. A password that was right once is known again by its digest: bcrypt is slow on purpose.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Mutex, PoisonError};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use md5::{Digest, Md5};
use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use sha2::Sha256;

/// How many right passwords are known again.
const REMEMBERED: usize = 1024;
/// The highest bcrypt cost: a check takes about a second of a processor then.
const BCRYPT_COST_MAX: u32 = 14;
/// The bytes of a SHA-1 digest.
const SHA1_BYTES: usize = 20;

/// How one password is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Hash {
    /// MD5 in a thousand rounds.
    Md5 {
        magic: &'static str,
        salt: String,
        text: String,
    },
    Bcrypt(String),
    /// With the salt that follows the password, or none.
    Sha1 {
        digest: Vec<u8>,
        salt: Vec<u8>,
    },
    Plain(String),
}

/// Who is let in.
#[derive(Debug, Default)]
pub struct Users {
    hashes: HashMap<String, Hash>,
    right: Mutex<HashSet<[u8; 32]>>,
}

impl Users {
    /// From the lines of a file, and what is wrong in it.
    pub fn from_file(text: &str) -> (Users, Vec<String>) {
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        Users::new(lines.map(|line| line.split_once(':').unwrap_or((line, ""))))
    }

    /// From a password for each user.
    pub fn from_map(map: &BTreeMap<String, String>) -> (Users, Vec<String>) {
        Users::new(map.iter().map(|(user, hash)| (user.as_str(), hash.trim())))
    }

    fn new<'a>(pairs: impl Iterator<Item = (&'a str, &'a str)>) -> (Users, Vec<String>) {
        let (mut users, mut complaints) = (Users::default(), Vec::new());
        for (user, hash) in pairs {
            // Further fields are a comment.
            match parse(hash.split(':').next().unwrap_or_default()) {
                Ok(hash) => drop(users.hashes.entry(user.to_owned()).or_insert(hash)),
                Err(why) => complaints.push(format!("the password of user {user:?} {why}")),
            }
        }
        (users, complaints)
    }

    /// Whether this `Authorization` has been right before.
    pub fn knows(&self, authorization: &str) -> bool {
        self.right.lock().unwrap_or_else(PoisonError::into_inner).contains(&fingerprint(authorization))
    }

    /// Whether it is right; this may take long.
    pub fn check(&self, authorization: &str) -> bool {
        let right = credentials(authorization)
            .is_some_and(|(user, password)| self.hashes.get(&user).is_some_and(|hash| is(hash, &password)));
        if right {
            let mut all = self.right.lock().unwrap_or_else(PoisonError::into_inner);
            if all.len() >= REMEMBERED {
                all.clear();
            }
            all.insert(fingerprint(authorization));
        }
        right
    }
}

fn fingerprint(authorization: &str) -> [u8; 32] {
    Sha256::digest(authorization).into()
}

/// Name and password of `Basic ...` (RFC 7617).
fn credentials(authorization: &str) -> Option<(String, String)> {
    let (scheme, rest) = authorization.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let text = String::from_utf8(STANDARD.decode(rest.trim()).ok()?).ok()?;
    let (user, password) = text.split_once(':')?;
    Some((user.to_owned(), password.to_owned()))
}

fn parse(hash: &str) -> Result<Hash, String> {
    const WANTED: &str = "must be hashed as by htpasswd -m, -B or -s";
    for magic in ["$apr1$", "$1$"] {
        if let Some((salt, text)) = hash.strip_prefix(magic).and_then(|rest| rest.split_once('$')) {
            return Ok(Hash::Md5 { magic, salt: salt.to_owned(), text: text.to_owned() });
        }
    }
    if let Some(rest) = ["$2a$", "$2b$", "$2y$"].iter().find_map(|magic| hash.strip_prefix(magic)) {
        let cost = rest.split('$').next().and_then(|cost| cost.parse::<u32>().ok());
        return match cost {
            Some(cost) if cost <= BCRYPT_COST_MAX => Ok(Hash::Bcrypt(hash.to_owned())),
            _ => Err(format!("must have a bcrypt cost of at most {BCRYPT_COST_MAX}")),
        };
    }
    let decode = |text: &str| STANDARD.decode(text).ok().filter(|bytes| bytes.len() >= SHA1_BYTES);
    for magic in ["{SHA}", "{SSHA}"] {
        if let Some(mut digest) = hash.strip_prefix(magic).and_then(decode) {
            let salt = digest.split_off(SHA1_BYTES);
            return Ok(Hash::Sha1 { digest, salt });
        }
    }
    match hash.strip_prefix("{PLAIN}") {
        Some(plain) => Ok(Hash::Plain(plain.to_owned())),
        None => Err(WANTED.to_owned()),
    }
}

fn is(hash: &Hash, password: &str) -> bool {
    match hash {
        Hash::Md5 { magic, salt, text } => {
            same(md5_crypt(password.as_bytes(), magic, salt).as_bytes(), text.as_bytes())
        }
        Hash::Bcrypt(text) => bcrypt::verify(password, text).unwrap_or(false),
        Hash::Sha1 { digest: own, salt } => {
            let given = digest(&SHA1_FOR_LEGACY_USE_ONLY, &[password.as_bytes(), salt].concat());
            same(given.as_ref(), own)
        }
        Hash::Plain(own) => same(password.as_bytes(), own.as_bytes()),
    }
}

/// Compares in a time that does not tell where they differ.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |differing, (a, b)| differing | (a ^ b)) == 0
}

/// MD5-crypt as FreeBSD and Apache define it: a thousand rounds over password, salt and what came before.
fn md5_crypt(password: &[u8], magic: &str, salt: &str) -> String {
    let salt = &salt.as_bytes()[..salt.len().min(8)];
    let inner = Md5::digest([password, salt, password].concat());
    let mut first = [password, magic.as_bytes(), salt].concat();
    first.extend(inner.iter().cycle().take(password.len()));
    let mut bits = password.len();
    while bits > 0 {
        first.push(if bits & 1 == 1 { 0 } else { password[0] });
        bits >>= 1;
    }
    let mut last = Md5::digest(first);
    for round in 0..1000 {
        let (odd, mut next) = (round % 2 == 1, Md5::new());
        next.update(if odd { password } else { last.as_slice() });
        if round % 3 != 0 {
            next.update(salt);
        }
        if round % 7 != 0 {
            next.update(password);
        }
        next.update(if odd { last.as_slice() } else { password });
        last = next.finalize();
    }
    let mut text = String::new();
    let triples = [(0, 6, 12), (1, 7, 13), (2, 8, 14), (3, 9, 15), (4, 10, 5)];
    for (a, b, c) in triples {
        digits(&mut text, u32::from(last[a]) << 16 | u32::from(last[b]) << 8 | u32::from(last[c]), 4);
    }
    digits(&mut text, u32::from(last[11]), 2);
    text
}

fn digits(text: &mut String, mut value: u32, count: usize) {
    const DIGITS: &[u8; 64] = b"./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    for _ in 0..count {
        text.push(char::from(DIGITS[(value & 63) as usize]));
        value >>= 6;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn basic(user: &str, password: &str) -> String {
        format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
    }

    // Made by `openssl passwd -apr1/-1 -salt` and `openssl dgst -sha1`; the bcrypt one is of the algorithm's test vectors.
    const FILE: &str = "# users\n\
        apache:$apr1$saltsalt$yAAkm4libquA.ZWLHbSBq/\n\
        \n\
        bsd:$1$saltsalt$qjXMvbEw8oaL.CzflDtaK/\n\
        bcrypt:$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW\n\
        sha:{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=:a comment\n\
        plain:{PLAIN}password\n";

    #[test]
    fn right_passwords_open_and_are_known_again() {
        let (users, complaints) = Users::from_file(FILE);
        assert_eq!(complaints, [""; 0]);
        for (user, password) in [
            ("apache", "password"),
            ("bsd", "password"),
            ("bcrypt", "U*U"),
            ("sha", "password"),
            ("plain", "password"),
        ] {
            let right = basic(user, password);
            assert!(!users.knows(&right), "{user}");
            assert!(users.check(&right) && users.knows(&right), "{user}");
            for wrong in [basic(user, "Password"), basic(user, ""), basic("nobody", password)] {
                assert!(!users.check(&wrong) && !users.knows(&wrong), "{user}");
            }
        }
        for wrong in ["", "Basic", "Basic !!", "Bearer x", "Basic cGxhaW4="] {
            assert!(!users.check(wrong), "{wrong}");
        }
    }

    #[test]
    fn what_cannot_be_checked_is_told() {
        let (users, complaints) = Users::from_file("a:$6$x$y\nb:$2y$31$abc\nc\nd:{PLAIN}x\n");
        assert_eq!(
            complaints,
            [
                "the password of user \"a\" must be hashed as by htpasswd -m, -B or -s",
                "the password of user \"b\" must have a bcrypt cost of at most 14",
                "the password of user \"c\" must be hashed as by htpasswd -m, -B or -s",
            ]
        );
        assert!(users.check(&basic("d", "x")) && !users.check(&basic("a", "x")));
        let (users, _) = Users::from_map(&[("e".to_owned(), "{PLAIN}y\n".to_owned())].into());
        assert!(users.check(&basic("e", "y")));
    }
}
