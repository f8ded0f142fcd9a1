//! Which images may be pulled, and loaded from archives: a policy file as containers-policy.json(5) defines it.
//!
//! It lists, for each scope, what an image has to meet. Signatures cannot be verified here yet, so whatever wants one
//! refuses the image by name: nothing that the file asks for is passed over. For the same reason a file that is wrong
//! anywhere, or that says a thing twice, refuses every image. Read again for each.

use std::{
    collections::BTreeMap,
    env, fmt, fs, io,
    marker::PhantomData,
    path::{Path, PathBuf},
};

use model::ImageRef;
use serde::{
    Deserialize, Deserializer,
    de::{Error as _, MapAccess, Visitor},
};
use serde_json::Value;

use crate::{Error, Result, bounded_json::read_json};

/// The largest such file, bytes.
const LARGEST: u64 = 1 << 20;
/// The transport of registries.
const DOCKER: &str = "docker";
/// Those of archives, by their form. Of them only the whole is spoken about: an archive that is being read has no path.
pub(crate) const OCI_ARCHIVE: &str = "oci-archive";
pub(crate) const DOCKER_ARCHIVE: &str = "docker-archive";
/// Where the daemon's user is at home if the environment does not say: it is root.
const HOME: &str = "/root";

/// A file that was read.
#[derive(Debug)]
pub(crate) struct Policy {
    path: PathBuf,
    file: File,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    /// For what no scope is about.
    default: Demands,
    /// By transport and scope; the scope of a transport's own default is empty.
    #[serde(default)]
    transports: Once<Once<Demands>>,
}

/// What an image has to meet: all of it, and at least one thing.
#[derive(Debug, Deserialize)]
#[serde(try_from = "Vec<Once<Value>>")]
struct Demands(Vec<Demand>);

/// One thing that an image has to meet.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Demand {
    /// Whatever there is.
    Nothing,
    /// What no image can.
    Impossible,
    /// A signature, of this type.
    Signature(String),
}

/// A map in which every key stands once: what is said twice means two things.
#[derive(Debug)]
struct Once<V>(BTreeMap<String, V>);

impl Policy {
    /// Reads the first of these files that exists; `None` when none does. `~` at the beginning is the home of the
    /// daemon's user.
    pub(crate) fn read(paths: &[PathBuf]) -> Result<Option<Self>> {
        for path in paths.iter().map(|path| at_home(path)) {
            let refuse = |why: String| Error::Hosts { path: path.clone(), why };
            let text = match fs::metadata(&path) {
                Ok(meta) if meta.len() > LARGEST => return Err(refuse("it is larger than 1 MiB".to_owned())),
                Ok(_) => fs::read(&path).map_err(|error| refuse(error.to_string()))?,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(refuse(error.to_string())),
            };
            let file = read_json(&text).map_err(|error| refuse(format!("it is no policy: {error}")))?;
            return Ok(Some(Self { path, file }));
        }
        Ok(None)
    }

    /// Whether the image may be pulled: by the most special scope that is about it.
    pub(crate) fn check(&self, reference: &ImageRef) -> Result<()> {
        self.judge(DOCKER, &scopes(reference), || format!("pull {reference}"))
    }

    /// Whether an archive of this transport may be loaded.
    pub(crate) fn check_archive(&self, transport: &str) -> Result<()> {
        self.judge(transport, &[String::new()], || "load the archive".to_owned())
    }

    fn judge(&self, transport: &str, scopes: &[String], act: impl FnOnce() -> String) -> Result<()> {
        let (scope, Demands(demands)) = self.about(transport, scopes);
        let Some(demand) = demands.iter().find(|demand| **demand != Demand::Nothing) else { return Ok(()) };
        Err(Error::Policy {
            act: act(),
            path: self.path.clone(),
            scope,
            wants: match demand {
                Demand::Signature(kind) => Some(kind.clone()),
                _ => None,
            },
        })
    }

    fn about(&self, transport: &str, scopes: &[String]) -> (String, &Demands) {
        let known = self.file.transports.0.get(transport);
        let scoped = scopes.iter().find_map(|scope| {
            let demands = known?.0.get(scope)?;
            Some((format!("transports.{transport}.{scope:?}"), demands))
        });
        scoped.unwrap_or_else(|| ("default".to_owned(), &self.file.default))
    }
}

/// The scopes that are about an image, the most special first: itself, its repository, what that lies in, the host, the
/// domains above the host, the whole transport.
fn scopes(reference: &ImageRef) -> Vec<String> {
    let mut scopes = vec![reference.to_string()];
    let name = reference.name();
    scopes.push(name.clone());
    scopes.extend(name.rmatch_indices('/').map(|(end, _)| name[..end].to_owned()));
    let host = reference.domain().split(':').next().unwrap_or_default();
    scopes.extend(host.match_indices('.').map(|(dot, _)| format!("*{}", &host[dot..])));
    scopes.push(String::new());
    scopes
}

fn at_home(path: &Path) -> PathBuf {
    match path.strip_prefix("~") {
        Ok(below) => {
            let home = env::var_os("HOME").filter(|home| !home.is_empty());
            home.map_or_else(|| PathBuf::from(HOME), PathBuf::from).join(below)
        }
        Err(_) => path.to_owned(),
    }
}

impl TryFrom<Vec<Once<Value>>> for Demands {
    type Error = String;

    fn try_from(list: Vec<Once<Value>>) -> Result<Self, String> {
        if list.is_empty() {
            return Err("an empty list of requirements: want at least one".to_owned());
        }
        list.into_iter().map(demand).collect::<Result<_, _>>().map(Demands)
    }
}

fn demand(Once(fields): Once<Value>) -> Result<Demand, String> {
    let Some(Value::String(kind)) = fields.get("type") else {
        return Err("a requirement without its type".to_owned());
    };
    match kind.as_str() {
        "insecureAcceptAnything" | "reject" if fields.len() > 1 => {
            Err(format!("a requirement of type {kind} has no fields but its type"))
        }
        "insecureAcceptAnything" => Ok(Demand::Nothing),
        "reject" => Ok(Demand::Impossible),
        // What else they hold is of no use to us: nothing meets them.
        "signedBy" | "signedBaseLayer" | "sigstoreSigned" => Ok(Demand::Signature(kind.clone())),
        other => Err(format!("a requirement of the unknown type {other:?}")),
    }
}

impl<V> Default for Once<V> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<'de, V: Deserialize<'de>> Deserialize<'de> for Once<V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Keys(PhantomData))
    }
}

struct Keys<V>(PhantomData<V>);

impl<'de, V: Deserialize<'de>> Visitor<'de> for Keys<V> {
    type Value = Once<V>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Once<V>, A::Error> {
        let mut all = BTreeMap::new();
        while let Some((key, value)) = map.next_entry::<String, V>()? {
            let name = key.clone();
            if all.insert(key, value).is_some() {
                return Err(A::Error::custom(format_args!("{name:?} stands there twice")));
            }
        }
        Ok(Once(all))
    }
}

#[cfg(test)]
mod tests {
    use model::Class;

    use super::*;

    fn policy(text: &str) -> Result<Policy> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("policy.json");
        fs::write(&path, text).unwrap();
        Policy::read(&[dir.path().join("none.json"), path]).map(Option::unwrap)
    }

    fn checked(policy: &Policy, reference: &str) -> Result<()> {
        policy.check(&reference.parse().unwrap())
    }

    #[test]
    fn the_most_special_scope_decides() {
        let digest = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let accept = r#"[{"type":"insecureAcceptAnything"}]"#;
        let reject = r#"[{"type":"reject"}]"#;
        let scopes = [
            ("r.io/a/b:1", accept),
            ("r.io/a/b", reject),
            ("r.io/a", accept),
            ("r.io", reject),
            ("r.io:5000", accept),
            ("*.io", accept),
            ("deep.sub.example", accept),
            ("*.sub.example", reject),
            ("*.example", accept),
            ("docker.io/library/busybox", accept),
            ("localhost:5000/x", accept),
        ];
        let listed: Vec<_> = scopes.iter().map(|(scope, demands)| format!("{scope:?}:{demands}")).collect();
        let text = format!(
            r#"{{"default":{reject},"transports":{{"docker":{{{}}},"oci":{{"":{accept}}}}}}}"#,
            listed.join(",")
        );
        let policy = policy(&text).unwrap();
        for (reference, scope) in [
            ("r.io/a/b:1", None),
            ("r.io/a/b:2", Some("r.io/a/b")),
            (&format!("r.io/a/b@{digest}"), Some("r.io/a/b")),
            ("r.io/a/c/d", None),
            ("r.io/x", Some("r.io")),
            ("r.io:5000/x", None),
            // A host with a port lies in the domains above it all the same.
            ("q.io:5000/x", None),
            ("deep.sub.example/x", None),
            ("sub.example/x", None),
            ("one.sub.example/x", Some("*.sub.example")),
            ("busybox", None),
            // As docker.io lies in *.io.
            ("debian", None),
            ("localhost:5000/x/y", None),
            ("localhost:5000/xy", Some("default")),
            ("r.org/x", Some("default")),
        ] {
            let told = checked(&policy, reference).err();
            let found = told.as_ref().map(|error| match error {
                Error::Policy { scope, wants: None, .. } => scope.as_str(),
                other => panic!("{other}"),
            });
            let wanted = scope.map(|scope| match scope {
                "default" => scope.to_owned(),
                scope => format!("transports.docker.{scope:?}"),
            });
            assert_eq!(found, wanted.as_deref(), "{reference}");
        }
        let whole =
            r#"{"default":[{"type":"insecureAcceptAnything"}],"transports":{"docker":{"":[{"type":"reject"}]}}}"#;
        let refused = checked(&self::policy(whole).unwrap(), "r.io/x").unwrap_err();
        assert!(matches!(&refused, Error::Policy { scope, .. } if scope == "transports.docker.\"\""), "{refused}");
    }

    #[test]
    fn archives_have_transports_of_their_own() {
        let text = r#"{"default":[{"type":"reject"}],"transports":{
            "docker":{"":[{"type":"insecureAcceptAnything"}]},
            "oci-archive":{"/a/path":[{"type":"reject"}],"":[{"type":"insecureAcceptAnything"}]}}}"#;
        let policy = policy(text).unwrap();
        assert!(policy.check_archive(OCI_ARCHIVE).is_ok());
        let refused = policy.check_archive(DOCKER_ARCHIVE).unwrap_err().to_string();
        assert!(refused.contains(": load the archive: ") && refused.contains("at default"), "{refused}");
    }

    #[test]
    fn what_wants_a_signature_is_an_error_that_names_file_scope_and_type() {
        for (kind, more) in [
            ("signedBy", r#","keyType":"GPGKeys","keyPath":"/k""#),
            ("sigstoreSigned", r#","keyPath":"/k""#),
            ("signedBaseLayer", ""),
        ] {
            // All has to be met, whatever stands before it.
            let text = format!(
                r#"{{"default":[{{"type":"insecureAcceptAnything"}}],"transports":{{"docker":{{
                    "r.io":[{{"type":"insecureAcceptAnything"}},{{"type":"{kind}"{more}}}]}}}}}}"#
            );
            let policy = policy(&text).unwrap();
            assert!(checked(&policy, "other.io/x").is_ok());
            let error = checked(&policy, "r.io/x").unwrap_err();
            assert_eq!((error.class(), error.kubelet_const()), (Class::Unsupported, Some("SignatureValidationFailed")));
            let told = error.to_string();
            assert!(told.starts_with("SignatureValidationFailed: pull r.io/x:latest: "), "{told}");
            for part in ["policy.json", "transports.docker.\"r.io\"", kind] {
                assert!(told.contains(part), "{told}");
            }
        }
        let error = checked(&policy(r#"{"default":[{"type":"reject"}]}"#).unwrap(), "r.io/x").unwrap_err();
        assert_eq!((error.class(), error.kubelet_const()), (Class::Denied, Some("SignatureValidationFailed")));
    }

    #[test]
    fn a_file_that_is_wrong_anywhere_is_an_error_and_a_missing_one_is_none() {
        assert!(Policy::read(&[PathBuf::from("/nonexistent/policy.json")]).unwrap().is_none());
        assert!(Policy::read(&[]).unwrap().is_none());
        let accept = r#"[{"type":"insecureAcceptAnything"}]"#;
        let elsewhere = |demands: &str| format!(r#"{{"default":{accept},"transports":{{"dir":{{"/x":{demands}}}}}}}"#);
        assert!(policy(&elsewhere(accept)).is_ok());
        for wrong in [
            String::new(),
            "{}".to_owned(),
            "[]".to_owned(),
            r#"{"default":[]}"#.to_owned(),
            r#"{"default":{}}"#.to_owned(),
            r#"{"default":null}"#.to_owned(),
            format!(r#"{{"default":{accept}"#),
            format!(r#"{{"default":{accept}}} {{}}"#),
            format!(r#"{{"default":{accept},"default":{accept}}}"#),
            format!(r#"{{"default":{accept},"transport":{{}}}}"#),
            format!(r#"{{"default":{accept},"transports":[]}}"#),
            format!(r#"{{"default":{accept},"transports":{{"docker":[]}}}}"#),
            format!(r#"{{"default":{accept},"transports":{{"docker":{{"x":{accept},"x":{accept}}}}}}}"#),
            format!(r#"{{"default":{accept},"transports":{{"docker":{{}},"docker":{{}}}}}}"#),
            elsewhere("[]"),
            elsewhere("[null]"),
            elsewhere("[{}]"),
            elsewhere(r#"[{"type":5}]"#),
            elsewhere(r#"[{"type":"trustMe"}]"#),
            elsewhere(r#"[{"type":"Reject"}]"#),
            elsewhere(r#"[{"type":"reject","type":"insecureAcceptAnything"}]"#),
            elsewhere(r#"[{"type":"insecureAcceptAnything","keyPath":"/k"}]"#),
            "[".repeat(100_000),
            format!("{}{}", " ".repeat(2 << 20), elsewhere(accept)),
        ] {
            let shown: String = wrong.chars().take(100).collect();
            let refused = policy(&wrong).map(drop).unwrap_err();
            assert!(
                matches!(&refused, Error::Hosts { path, .. } if path.ends_with("policy.json")),
                "{shown}: {refused}"
            );
        }
    }

    #[test]
    fn the_home_of_the_daemons_user_is_meant_by_a_tilde() {
        let home = env::var_os("HOME").map_or_else(|| PathBuf::from(HOME), PathBuf::from);
        assert_eq!(at_home(Path::new("~/a/b")), home.join("a/b"));
        assert_eq!(at_home(Path::new("/~/a")), Path::new("/~/a"));
        assert_eq!(at_home(Path::new("~a")), Path::new("~a"));
    }
}
