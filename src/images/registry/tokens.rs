//! Tokens that are kept from pull to pull, in memory: to learn that an image is here costs one request then, not three.
//!
//! A token is kept for the host that has demanded it, the repository, and whoever it was given to, and it is shown
//! in no other way: a host that names another's token server gets a token of its own asking, and who proves himself
//! otherwise has tokens of his own. What a realm, a service and a scope are asked for follows from these, by the
//! host's word; so they are no part of the key, and nobody has to ask for that word first. A token is good for as
//! long as its server has said, less a margin. One that the host refuses earlier is dropped, and one new one is
//! asked for, as if there had been none. Whether the caller may have the image is asked of the host each time.

use std::{
    collections::HashMap,
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use aws_lc_rs::{
    hmac::{self, HMAC_SHA256},
    rand::SystemRandom,
};
use reqwest::header::HeaderValue;

use crate::{credentials::Proof, docker_config::Helper};

/// Tokens that are kept at most; the first to end makes room.
const MOST: usize = 1024;
/// What is left of a token's time when it is shown no more: it has to last until the host has read it.
const MARGIN: Duration = Duration::from_secs(10);
/// A token's time if its server does not tell, as the distribution specification has it.
pub(crate) const UNTOLD: Duration = Duration::from_secs(60);
/// The longest that one is kept, whatever its server says: who is locked out there is locked out here after that.
const LONGEST: Duration = Duration::from_secs(3600);

/// See the head of this file.
pub(crate) struct Tokens {
    /// Made anew with each start: what is told apart by it says nothing to anybody else.
    secret: Option<hmac::Key>,
    kept: Mutex<HashMap<Key, Kept>>,
}

/// For whom a token is, and to whom it is shown.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    /// Address of the host.
    pub(crate) host: String,
    pub(crate) repository: String,
    /// The registry that the host stands for, where it is a mirror.
    pub(crate) namespace: Option<String>,
    pub(crate) who: Who,
}

/// Whoever proves himself in one way. Tells nothing of how.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Who(Vec<u8>);

struct Kept {
    authorization: HeaderValue,
    until: Instant,
}

impl Default for Tokens {
    fn default() -> Self {
        // Without randomness nothing is kept.
        Self { secret: hmac::Key::generate(HMAC_SHA256, &SystemRandom::new()).ok(), kept: Mutex::default() }
    }
}

impl Tokens {
    /// Who proves himself so; `None` is anybody.
    pub(crate) fn who(&self, proof: Option<&Proof>) -> Option<Who> {
        match proof {
            None => self.sign(&["anybody"]),
            Some(Proof::Password { username, password }) => self.sign(&["password", username, password]),
            Some(Proof::IdentityToken(token)) => self.sign(&["identity token", token]),
            // Is shown as it is.
            Some(Proof::RegistryToken(_)) => None,
        }
    }

    /// Whoever a helper speaks for, without asking it.
    pub(crate) fn who_is_helped(&self, helper: &Helper) -> Option<Who> {
        self.sign(&["helper", &helper.name, &helper.server])
    }

    /// Each part with its length, so that no two lists come to the same.
    fn sign(&self, parts: &[&str]) -> Option<Who> {
        let mut context = hmac::Context::with_key(self.secret.as_ref()?);
        for part in parts {
            context.update(&(part.len() as u64).to_le_bytes());
            context.update(part.as_bytes());
        }
        Some(Who(context.sign().as_ref().to_vec()))
    }

    /// A token that is good now.
    pub(crate) fn find(&self, key: &Key, now: Instant) -> Option<HeaderValue> {
        self.lock().get(key).filter(|kept| kept.until > now).map(|kept| kept.authorization.clone())
    }

    /// Keeps one that was asked for at `asked` and is good for so long from then.
    pub(crate) fn keep(&self, key: Key, authorization: HeaderValue, asked: Instant, lifetime: Duration) {
        let until = asked + lifetime.saturating_sub(MARGIN).min(LONGEST);
        let mut kept = self.lock();
        kept.retain(|_, kept| kept.until > asked);
        if kept.len() >= MOST
            && let Some(first) = kept.iter().min_by_key(|(_, kept)| kept.until).map(|(key, _)| key.clone())
        {
            kept.remove(&first);
        }
        if until > asked {
            kept.insert(key, Kept { authorization, until });
        }
    }

    /// The host has refused it.
    pub(crate) fn forget(&self, key: &Key, authorization: &HeaderValue) {
        let mut kept = self.lock();
        if kept.get(key).is_some_and(|kept| kept.authorization == *authorization) {
            kept.remove(key);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tokens({})", self.lock().len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(tokens: &Tokens, repository: &str, proof: Option<&Proof>) -> Key {
        let who = tokens.who(proof).unwrap();
        Key { host: "https://r.io/v2".to_owned(), repository: repository.to_owned(), namespace: None, who }
    }

    fn password(username: &str, password: &str) -> Proof {
        Proof::Password { username: username.to_owned(), password: password.to_owned() }
    }

    fn value(text: &'static str) -> HeaderValue {
        HeaderValue::from_static(text)
    }

    #[test]
    fn a_token_is_found_by_whom_it_was_given_to_for_what_it_was_given() {
        let (tokens, now) = (Tokens::default(), Instant::now());
        let ann = password("ann", "hunter2");
        tokens.keep(key(&tokens, "x", Some(&ann)), value("hers"), now, UNTOLD);
        assert_eq!(tokens.find(&key(&tokens, "x", Some(&ann)), now), Some(value("hers")));
        for other in [password("ann", "hunter3"), password("annh", "unter2"), Proof::IdentityToken("hunter2".into())] {
            assert_eq!(tokens.find(&key(&tokens, "x", Some(&other)), now), None);
        }
        let hers = key(&tokens, "x", Some(&ann));
        for other in [
            key(&tokens, "x", None),
            key(&tokens, "y", Some(&ann)),
            Key { host: "https://mirror.io/v2".to_owned(), ..hers.clone() },
            Key { namespace: Some("r.io".to_owned()), ..hers.clone() },
            Key {
                who: tokens.who_is_helped(&Helper { name: "ann".into(), server: "hunter2".into() }).unwrap(),
                ..hers.clone()
            },
        ] {
            assert_eq!(tokens.find(&other, now), None, "{other:?}");
        }
        assert!(tokens.who(Some(&Proof::RegistryToken("own".into()))).is_none());
        // What is told apart here is not in another daemon.
        assert_ne!(tokens.who(Some(&ann)), Tokens::default().who(Some(&ann)));
        let told = format!("{tokens:?} {hers:?}");
        assert!(!told.contains("hunter2") && !told.contains("hers"), "{told}");
    }

    #[test]
    fn a_token_ends_before_its_server_ends_it_and_within_the_hour() {
        let (tokens, now) = (Tokens::default(), Instant::now());
        let key = key(&tokens, "x", None);
        for (lifetime, ends) in
            [(UNTOLD, UNTOLD - MARGIN), (Duration::from_secs(90_000), LONGEST), (Duration::MAX, LONGEST)]
        {
            tokens.keep(key.clone(), value("t"), now, lifetime);
            assert!(tokens.find(&key, now + ends - Duration::from_millis(1)).is_some());
            assert_eq!(tokens.find(&key, now + ends), None);
        }
        tokens.forget(&key, &value("another"));
        assert!(tokens.find(&key, now).is_some(), "another was refused");
        tokens.forget(&key, &value("t"));
        assert_eq!(tokens.find(&key, now), None);
        tokens.keep(key.clone(), value("t"), now, MARGIN);
        assert_eq!(tokens.find(&key, now), None);
    }

    #[test]
    fn only_so_many_are_kept_and_those_that_ended_go_first() {
        let (tokens, now) = (Tokens::default(), Instant::now());
        for n in 0..MOST as u64 + 10 {
            let lifetime = Duration::from_secs(100 + n);
            tokens.keep(key(&tokens, &n.to_string(), None), value("t"), now, lifetime);
        }
        assert_eq!(tokens.lock().len(), MOST);
        assert!(tokens.find(&key(&tokens, "9", None), now).is_none());
        assert!(tokens.find(&key(&tokens, "10", None), now).is_some());
        tokens.keep(key(&tokens, "late", None), value("t"), now + LONGEST, UNTOLD);
        assert_eq!(tokens.lock().len(), 1);
    }
}
