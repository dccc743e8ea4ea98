//! Service-account tokens: signed by the cluster, bound to an account and perhaps to a pod, and worthless
//! when those are gone.
//!
//! The claims are those of Kubernetes' bound tokens (`pkg/serviceaccount/claims.go`).

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use jiff::Timestamp;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, UnparsedPublicKey,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::account_user;
use super::rbac::rules::quoted;

/// Who issues tokens, and the audience that the API server accepts.
pub const ISSUER: &str = "https://kubernetes.default.svc";
/// The only signature algorithm; `none` and everything else is refused.
const ALGORITHM: &str = "ES256";
/// Who issues the tokens in secrets, which have no audience and no end.
const LEGACY_ISSUER: &str = "kubernetes/serviceaccount";

/// An object that a token is about or bound to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bound {
    /// Its name.
    pub name: String,
    /// Its uid; another object of the same name is not meant.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub uid: String,
}

/// The `kubernetes.io` claim.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Binding {
    /// The account's namespace.
    pub namespace: String,
    /// The node of the pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<Bound>,
    /// The pod that the token is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<Bound>,
    /// The secret that the token is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<Bound>,
    /// The account.
    pub serviceaccount: Bound,
}

/// What a token says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// For whom it is.
    pub aud: Vec<String>,
    /// When it ends, in seconds since 1970.
    pub exp: i64,
    /// When it was issued.
    pub iat: i64,
    /// Who issued it.
    pub iss: String,
    /// A name of its own.
    pub jti: String,
    /// To what it is bound.
    #[serde(rename = "kubernetes.io")]
    pub binding: Binding,
    /// When it begins.
    pub nbf: i64,
    /// `system:serviceaccount:NAMESPACE:NAME`.
    pub sub: String,
}

/// What a token in a secret says (`pkg/serviceaccount/legacy.go`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct LegacyClaims {
    iss: String,
    sub: String,
    #[serde(rename = "kubernetes.io/serviceaccount/namespace")]
    namespace: String,
    #[serde(rename = "kubernetes.io/serviceaccount/secret.name")]
    secret: String,
    #[serde(rename = "kubernetes.io/serviceaccount/service-account.name")]
    account: String,
    #[serde(rename = "kubernetes.io/serviceaccount/service-account.uid")]
    uid: String,
}

impl From<LegacyClaims> for Claims {
    /// The secret is known by its name alone: it is the one that holds the token.
    fn from(legacy: LegacyClaims) -> Claims {
        let secret = Bound { name: legacy.secret, uid: String::new() };
        Claims {
            aud: Vec::new(),
            exp: i64::MAX,
            iat: 0,
            iss: legacy.iss,
            jti: String::new(),
            binding: Binding {
                namespace: legacy.namespace,
                node: None,
                pod: None,
                secret: Some(secret),
                serviceaccount: Bound { name: legacy.account, uid: legacy.uid },
            },
            nbf: 0,
            sub: legacy.sub,
        }
    }
}

/// Why a token is worth nothing.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It is no JWT of this cluster.
    #[error("invalid bearer token")]
    Malformed,
    /// It says that it is of this cluster, but was not signed by it.
    #[error("[invalid bearer token, go-jose/go-jose: error in cryptographic primitive]")]
    Signature,
    /// Its time is over.
    #[error("[invalid bearer token, service account token has expired]")]
    Expired,
    /// Its time has not come.
    #[error("[invalid bearer token, service account token is not valid yet]")]
    NotYet,
    /// For somebody else.
    #[error(
        "[invalid bearer token, token audiences {} is invalid for the target audiences {}]",
        quoted(.of),
        quoted(.wanted)
    )]
    Audience {
        /// For whom it is.
        of: Vec<String>,
        /// Who was shown it.
        wanted: Vec<String>,
    },
    /// The account is gone.
    #[error("[invalid bearer token, serviceaccounts {name:?} not found]")]
    NoAccount {
        /// Its name.
        name: String,
    },
    /// Another account of the same name is there.
    #[error("[invalid bearer token, service account UID ({actual}) does not match claim ({claimed})]")]
    OtherAccount {
        /// The uid of the one that is there.
        actual: String,
        /// That of the token's.
        claimed: String,
    },
    /// Something that it is bound to is gone.
    #[error("[invalid bearer token, service account token has been invalidated]")]
    Invalidated,
}

/// Signs and checks tokens.
pub struct Tokens {
    key: EcdsaKeyPair,
    key_id: String,
}

impl Tokens {
    /// With the cluster's key (PKCS #8 in DER).
    pub fn new(key: &[u8]) -> Result<Tokens, super::super::pki::Error> {
        let failed = |e: ring::error::KeyRejected| super::super::pki::Error::Key {
            what: "service account key",
            message: e.to_string(),
        };
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, key, &SystemRandom::new())
            .map_err(failed)?;
        let key_id = BASE64.encode(Sha256::digest(key.public_key().as_ref()));
        Ok(Tokens { key, key_id })
    }

    /// The token that says this; `None` when the system has no random bytes to sign with.
    pub fn sign(&self, claims: &Claims) -> Option<String> {
        self.sign_any(claims)
    }

    /// The token of a secret: good as long as the secret and the account are there.
    pub fn sign_for_secret(&self, namespace: &str, secret: &str, account: &Bound) -> Option<String> {
        self.sign_any(&LegacyClaims {
            iss: LEGACY_ISSUER.to_owned(),
            sub: account_user(namespace, &account.name),
            namespace: namespace.to_owned(),
            secret: secret.to_owned(),
            account: account.name.clone(),
            uid: account.uid.clone(),
        })
    }

    fn sign_any(&self, claims: &impl Serialize) -> Option<String> {
        let header = json!({"alg": ALGORITHM, "kid": self.key_id});
        let head = BASE64.encode(header.to_string());
        let body = BASE64.encode(serde_json::to_vec(claims).ok()?);
        let signed = format!("{head}.{body}");
        let signature = self.key.sign(&SystemRandom::new(), signed.as_bytes()).ok()?;
        Some(format!("{signed}.{}", BASE64.encode(signature)))
    }

    /// What a token says, when it is this cluster's, for one of `audiences`, and its time is now.
    pub fn check(&self, token: &str, audiences: &[String], now: Timestamp) -> Result<Claims, Refused> {
        let (signed, signature) = token.rsplit_once('.').ok_or(Refused::Malformed)?;
        let (head, body) = signed.split_once('.').ok_or(Refused::Malformed)?;
        let header: Value = decode(head)?;
        let unverified: Value = decode(body)?;
        let legacy = unverified["iss"] == LEGACY_ISSUER;
        if !legacy && unverified["iss"] != ISSUER {
            return Err(Refused::Malformed);
        }
        if header["alg"] != ALGORITHM {
            return Err(Refused::Signature);
        }
        let signature = BASE64.decode(signature).map_err(|_| Refused::Malformed)?;
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, self.key.public_key().as_ref())
            .verify(signed.as_bytes(), &signature)
            .map_err(|_| Refused::Signature)?;
        let mut claims = if legacy { decode::<LegacyClaims>(body)?.into() } else { decode::<Claims>(body)? };
        if legacy {
            claims.aud.push(ISSUER.to_owned());
        }
        if !claims.aud.iter().any(|a| audiences.contains(a)) {
            return Err(Refused::Audience { of: claims.aud, wanted: audiences.to_vec() });
        }
        match now.as_second() {
            now if now >= claims.exp => Err(Refused::Expired),
            now if now < claims.nbf => Err(Refused::NotYet),
            _ => Ok(claims),
        }
    }

    /// The public key as a JSON Web Key Set.
    pub fn key_set(&self) -> Value {
        // An uncompressed point: 4, then x and y of 32 bytes.
        let point = self.key.public_key().as_ref();
        let part = |from: usize| point.get(from..from + 32).map(|b| BASE64.encode(b)).unwrap_or_default();
        json!({"keys": [{"use": "sig", "kty": "EC", "kid": self.key_id, "crv": "P-256", "alg": ALGORITHM,
            "x": part(1), "y": part(33)}]})
    }
}

fn decode<T: serde::de::DeserializeOwned>(part: &str) -> Result<T, Refused> {
    let bytes = BASE64.decode(part).map_err(|_| Refused::Malformed)?;
    serde_json::from_slice(&bytes).map_err(|_| Refused::Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens() -> Tokens {
        let random = SystemRandom::new();
        let key = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
        Tokens::new(key.as_ref()).unwrap()
    }

    fn claims() -> Claims {
        Claims {
            aud: vec![ISSUER.into()],
            exp: 2000,
            iat: 1000,
            iss: ISSUER.into(),
            jti: "1".into(),
            nbf: 1000,
            sub: "system:serviceaccount:default:default".into(),
            binding: Binding {
                namespace: "default".into(),
                node: None,
                pod: None,
                secret: None,
                serviceaccount: Bound { name: "default".into(), uid: "u".into() },
            },
        }
    }

    #[test]
    fn tokens_of_secrets_have_no_end() {
        let tokens = tokens();
        let account = Bound { name: "robot".into(), uid: "u".into() };
        let token = tokens.sign_for_secret("blue", "s", &account).unwrap();
        let claims = tokens.check(&token, &[ISSUER.to_owned()], Timestamp::MAX).unwrap();
        assert_eq!(
            (claims.sub.as_str(), &claims.binding.serviceaccount),
            ("system:serviceaccount:blue:robot", &account)
        );
        assert_eq!(claims.binding.secret, Some(Bound { name: "s".into(), uid: String::new() }));
        assert!(tokens.check(&token, &["vault".to_owned()], Timestamp::UNIX_EPOCH).is_err());
        let body = BASE64.decode(token.split('.').nth(1).unwrap()).unwrap();
        let said: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(said["kubernetes.io/serviceaccount/service-account.name"], "robot");
    }

    #[test]
    fn only_good_tokens_are_accepted() {
        let tokens = tokens();
        let at = |second| Timestamp::from_second(second).unwrap();
        let audience = [ISSUER.to_owned()];
        let token = tokens.sign(&claims()).unwrap();
        assert_eq!(tokens.check(&token, &audience, at(1500)), Ok(claims()));
        assert_eq!(tokens.check(&token, &audience, at(2000)), Err(Refused::Expired));
        assert_eq!(tokens.check(&token, &audience, at(999)), Err(Refused::NotYet));
        assert_eq!(
            tokens.check(&token, &["vault".to_owned()], at(1500)).unwrap_err().to_string(),
            "[invalid bearer token, token audiences [\"https://kubernetes.default.svc\"] is invalid for the target \
             audiences [\"vault\"]]"
        );
        let foreign = tokens.sign(&Claims { iss: "https://other".into(), ..claims() }).unwrap();
        assert_eq!(tokens.check(&foreign, &audience, at(1500)), Err(Refused::Malformed));
        assert_eq!(self::tokens().check(&token, &audience, at(1500)), Err(Refused::Signature));
        let body = token.split('.').nth(1).unwrap();
        let none = format!("{}.{body}.", BASE64.encode(r#"{"alg":"none"}"#));
        assert_eq!(tokens.check(&none, &audience, at(1500)), Err(Refused::Signature));
        let changed = BASE64.encode(serde_json::to_vec(&Claims { exp: 9999, ..claims() }).unwrap());
        let forged = token.replace(body, &changed);
        assert_eq!(tokens.check(&forged, &audience, at(1500)), Err(Refused::Signature));
        for bad in ["", ".", "..", "a.b.c"] {
            assert_eq!(tokens.check(bad, &audience, at(1500)), Err(Refused::Malformed), "{bad:?}");
        }
    }
}
