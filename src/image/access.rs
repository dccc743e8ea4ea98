//! Who may use an image that is here without asking its registry: what has let somebody in lets them in again, and an
//! image that was fetched as nobody in particular, or that nobody fetched for others, is everybody's.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::Credential;

/// How many credentials are remembered of one image and repository; whoever comes after that asks the registry.
const MOST: usize = 100;

/// With what images of a repository were fetched.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Access {
    /// Everybody on this machine may.
    #[serde(default)]
    anybody: bool,
    /// Digests of the credentials that were good, and whose they were.
    #[serde(default)]
    keys: BTreeSet<String>,
}

impl Access {
    /// Of an image that was fetched with this credential. Those of the machine are everybody's on it.
    pub fn of(credential: Option<&Credential>) -> Access {
        match credential.filter(|credential| !credential.holder.is_empty()) {
            None => Access { anybody: true, keys: BTreeSet::new() },
            Some(credential) => Access { anybody: false, keys: keys(credential).into() },
        }
    }

    /// With what has been good before.
    pub fn join(&mut self, before: &Access) {
        self.anybody |= before.anybody;
        self.keys.extend(before.keys.iter().take(MOST.saturating_sub(self.keys.len())).cloned());
    }

    /// Whether somebody with these credentials may.
    pub fn allows(&self, credentials: &[Credential]) -> bool {
        self.anybody || credentials.iter().any(|known| keys(known).iter().any(|key| self.keys.contains(key)))
    }
}

/// A credential as it is known again: by itself, whoever has it, and by its holder, though it may have been renewed.
fn keys(credential: &Credential) -> [String; 2] {
    let Credential { username, password, identity_token, holder, .. } = credential;
    let digest = Sha256::digest(format!("{:?}", (username, password, identity_token)));
    let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    [format!("sha256:{digest}"), format!("of:{holder}")]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn credential(holder: &str, password: &str) -> Credential {
        Credential {
            registry: "registry.example".into(),
            username: "u".into(),
            password: password.into(),
            identity_token: None,
            holder: holder.into(),
        }
    }

    #[test]
    fn what_was_good_once_is_good_again() {
        let fetched = Access::of(Some(&credential("one", "p")));
        for (holder, password, expected) in
            [("one", "p", true), ("one", "renewed", true), ("other", "p", true), ("other", "q", false)]
        {
            assert_eq!(fetched.allows(&[credential(holder, password)]), expected, "{holder} {password}");
        }
        assert!(!fetched.allows(&[]));
        let both = [credential("x", "y"), credential("one", "p")];
        assert!(fetched.allows(&both));
        for open in [Access::of(None), Access::of(Some(&credential("", "of the machine")))] {
            assert!(open.allows(&[]));
            let mut joined = fetched.clone();
            joined.join(&open);
            assert!(joined.allows(&[]), "an image that everybody may have is everybody's from then on");
        }
        let mut more = Access::of(Some(&credential("other", "q")));
        more.join(&fetched);
        assert!(more.allows(&[credential("one", "")]) && more.allows(&[credential("other", "")]));
        assert!(!serde_json::to_string(&more).unwrap().contains("\"q\""), "no secret is written down");
    }

    #[test]
    fn no_more_are_remembered_than_anybody_needs() {
        let mut all = Access::default();
        for number in 0..MOST {
            let mut next = Access::of(Some(&credential(&number.to_string(), &number.to_string())));
            next.join(&all);
            all = next;
        }
        assert_eq!(all.keys.len(), MOST);
        assert!(all.allows(&[credential("99", "")]), "the last one is");
    }
}
