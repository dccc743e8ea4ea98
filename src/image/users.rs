//! Users and groups of an image, looked up in its layers as a container would see them.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use rustix::fs::{FileType, OFlags};

use super::{Error, Image};
use crate::sys::path::Root;

/// Who a process runs as.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// Supplementary group ids, by the image's `/etc/group`.
    pub groups: Vec<u32>,
    /// Home directory; `/` when unknown.
    pub home: String,
    /// Name; empty when unknown.
    pub name: String,
}

/// The most that is read of a `passwd` or `group` file, in bytes.
const FILE_MAX: u64 = 8 << 20;

impl Image {
    /// The user of `NAME`, `UID`, `NAME:GROUP`, `UID:GID`; empty is root.
    pub fn user(&self, spec: &str) -> Result<User, Error> {
        let passwd = self.file("etc/passwd").unwrap_or_default();
        let group = self.file("etc/group").unwrap_or_default();
        resolve(spec, &passwd, &group).map_err(|what| Error::Content { reference: self.shown(), what })
    }

    fn shown(&self) -> String {
        self.references.first().cloned().unwrap_or_else(|| self.id.clone())
    }

    /// A file of the image: that of the topmost layer that has it or hides it.
    fn file(&self, path: &str) -> Option<String> {
        for layer in self.layers.iter().rev() {
            match look(layer, path) {
                Found::File(text) => return Some(text),
                Found::Hidden => return None,
                Found::Nothing => {}
            }
        }
        None
    }
}

enum Found {
    File(String),
    Hidden,
    Nothing,
}

/// Looks for a file in one layer; links are followed inside the layer alone.
fn look(layer: &Path, path: &str) -> Found {
    let Ok(root) = Root::open(layer) else { return Found::Nothing };
    for ancestor in Path::new(path).ancestors().filter(|a| !a.as_os_str().is_empty()) {
        let whiteout = root.stat(ancestor).is_ok_and(|stat| {
            FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
        });
        if whiteout {
            return Found::Hidden;
        }
    }
    let Ok(fd) = root.open_at(path, OFlags::RDONLY | OFlags::NONBLOCK) else { return Found::Nothing };
    let mut bytes = Vec::new();
    match File::from(fd).take(FILE_MAX).read_to_end(&mut bytes) {
        Ok(_) => Found::File(String::from_utf8_lossy(&bytes).into_owned()),
        Err(_) => Found::Nothing,
    }
}

/// The user that a specification names, by the texts of `passwd` and `group` (pure).
fn resolve(spec: &str, passwd: &str, group: &str) -> Result<User, String> {
    let (who, which) = match spec.split_once(':') {
        Some((who, which)) => (who, Some(which).filter(|w| !w.is_empty())),
        None => (spec, None),
    };
    let who = if who.is_empty() { "0" } else { who };
    // NAME:x:UID:GID:comment:HOME:shell
    let fields = |line: &'_ str| line.split(':').map(str::to_owned).collect::<Vec<_>>();
    let entry = |matches: &dyn Fn(&[String]) -> bool| {
        passwd.lines().map(fields).find(|f| f.len() >= 6 && f[2].parse::<u32>().is_ok() && matches(f))
    };
    let by_name = entry(&|f| f[0] == who);
    let numeric = who.parse::<u32>().ok();
    let found = match (by_name, numeric) {
        (Some(found), _) => Some(found),
        (None, Some(uid)) => entry(&|f| f[2].parse() == Ok(uid)),
        (None, None) => return Err(format!("unable to find user {who}: no matching entries in passwd file")),
    };
    let mut user = match &found {
        Some(f) => User {
            uid: f[2].parse().unwrap_or(0),
            gid: f[3].parse().unwrap_or(0),
            groups: Vec::new(),
            home: if f[5].is_empty() { "/".to_owned() } else { f[5].clone() },
            name: f[0].clone(),
        },
        None => User { uid: numeric.unwrap_or(0), home: "/".to_owned(), ..User::default() },
    };
    if let Some(which) = which {
        // NAME:x:GID:members
        let line = group.lines().map(fields).find(|f| f.len() >= 3 && f[0] == which);
        user.gid = match (line.and_then(|f| f[2].parse().ok()), which.parse()) {
            (Some(gid), _) => gid,
            (None, Ok(gid)) => gid,
            (None, Err(_)) => {
                return Err(format!("unable to find group {which}: no matching entries in group file"));
            }
        };
    } else if !user.name.is_empty() {
        // Only a user without an explicit group gets the groups that list it (as Docker does).
        user.groups = group
            .lines()
            .map(fields)
            .filter(|f| f.len() >= 4 && f[3].split(',').any(|member| member == user.name))
            .filter_map(|f| f[2].parse().ok())
            .collect();
    }
    Ok(user)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str =
        "root:x:0:0:root:/root:/bin/sh\nwww-data:x:33:33:www:/var/www:/bin/false\nbroken\nn:x:y:z::/:\n";
    const GROUP: &str = "root:x:0:\nwww-data:x:33:\nadm:x:4:syslog,www-data\nssl:x:5:www-data\n";

    #[test]
    fn users_by_name_and_number() {
        let user = |spec: &str| resolve(spec, PASSWD, GROUP);
        let root = user("").unwrap();
        assert_eq!((root.uid, root.home.as_str()), (0, "/root"));
        let www = user("www-data").unwrap();
        assert_eq!((www.uid, www.gid, www.groups.as_slice()), (33, 33, &[4, 5][..]));
        assert_eq!(user("33").unwrap(), www);
        let both = user("www-data:adm").unwrap();
        assert_eq!((both.uid, both.gid, both.groups.len()), (33, 4, 0));
        let unknown = user("1000:2000").unwrap();
        assert_eq!((unknown.uid, unknown.gid, unknown.home.as_str()), (1000, 2000, "/"));
        assert!(user("nobody").unwrap_err().contains("nobody"));
        assert!(user("root:nope").unwrap_err().contains("nope"));
        assert!(user("4294967296").is_err());
    }

    #[test]
    fn layers_are_asked_from_the_top() {
        let dir = tempfile::tempdir().unwrap();
        let layers: Vec<_> = ["low", "mid", "top"].map(|n| dir.path().join(n)).into();
        for layer in &layers {
            std::fs::create_dir_all(layer.join("etc")).unwrap();
        }
        std::fs::write(layers[0].join("etc/passwd"), PASSWD).unwrap();
        std::fs::write(layers[1].join("etc/passwd"), "app:x:7:7::/app:\n").unwrap();
        std::os::unix::fs::symlink("/etc/shadow-of-host", layers[2].join("etc/group")).unwrap();
        let image = Image { layers, ..Image::default() };
        assert_eq!(image.user("app").unwrap().uid, 7);
        assert!(image.user("www-data").is_err());
    }
}
