//! What can go wrong with images.

mod attempt;
mod layer;

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use fault::MadeToFail;
use model::{Class, Digest, InvalidImageRef};

use attempt::registry_class;

pub use attempt::{Attempt, Outcome};
pub use layer::Fault;

use crate::step::Step;

/// The words that the kubelet looks for at the start of a pull's error.
const REGISTRY_UNAVAILABLE: &str = "RegistryUnavailable";
const SIGNATURE_VALIDATION_FAILED: &str = "SignatureValidationFailed";

/// Why an act on images did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No image has that id or name.
    #[error("image {what:?} not found")]
    NotFound {
        /// What was looked for.
        what: String,
    },
    /// Several images have ids that begin so.
    #[error("{what:?} is the beginning of more than one image id")]
    Ambiguous {
        /// What was looked for.
        what: String,
    },
    /// A test wanted a step to fail.
    #[error(transparent)]
    MadeToFail(#[from] MadeToFail<Step>),
    /// Containers use it.
    #[error("image {what:?} is in use by containers")]
    InUse {
        /// What was to be removed.
        what: String,
    },
    /// It was to be removed by its id, and has several names.
    #[error("image {what:?} has several names ({})", names.join(", "))]
    SeveralNames {
        /// What was to be removed.
        what: String,
        /// Its tags.
        names: Vec<String>,
    },
    /// The text names no image.
    #[error(transparent)]
    Reference(#[from] InvalidImageRef),
    /// The name is to be a tag and is none.
    #[error("{name} is no tag: want a name with a tag, or without anything behind it for :latest")]
    NoTag {
        /// The name.
        name: String,
    },
    /// The credentials of the request cannot be read.
    #[error("read the credentials: {why}")]
    Credentials {
        /// What is wrong with them; never a part of them.
        why: &'static str,
    },
    /// No host gave what was asked for. The text lists each with its answer.
    #[error("{}", describe(what, tried))]
    Registry {
        /// What was asked for: a reference, or a blob of one.
        what: String,
        /// Each host in the order asked.
        tried: Vec<Attempt>,
    },
    /// The node's policy keeps the image out.
    #[error("{}", describe_policy(act, path, scope, wants.as_deref()))]
    Policy {
        /// What was to be done: `pull r.io/x:1`.
        act: String,
        /// The policy.
        path: PathBuf,
        /// The part of it that is about this image.
        scope: String,
        /// The type of what it wants, which is not built; none where it rejects the image.
        wants: Option<String>,
    },
    /// A `hosts.toml`, or a certificate that it names, or another file about pulls cannot be used.
    #[error("read {}: {why}", path.display())]
    Hosts {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A manifest, index or configuration cannot be used.
    #[error("{what} {digest}: {why}")]
    Content {
        /// Which of the three.
        what: &'static str,
        /// Its digest.
        digest: Digest,
        /// What is wrong with it.
        why: String,
    },
    /// A kind of content that is not for us.
    #[error("media type {media_type:?} is not supported: {why}")]
    MediaType {
        /// The media type.
        media_type: String,
        /// What is, or why this is not.
        why: &'static str,
    },
    /// A setting that can never work.
    #[error("{key} = {value}: want a number from 1 to {most}")]
    Setting {
        /// The setting.
        key: &'static str,
        /// What it is.
        value: u64,
        /// The most that it may be.
        most: u64,
    },
    /// A setting that is to name an image and does not.
    #[error("{key}")]
    SettingName {
        /// The setting.
        key: &'static str,
        /// What it is, and what is wrong with that.
        source: InvalidImageRef,
    },
    /// A check of the store was asked for beside another.
    #[error("another check of the store is under way: wait until it is over")]
    CheckUnderWay,
    /// A setting that is to be a pattern of names and is none.
    #[error("{key}: {text:?}: {why}")]
    SettingPattern {
        /// The setting.
        key: &'static str,
        /// What it is.
        text: String,
        /// What would be right.
        why: &'static str,
    },
    /// An index has no image for this machine.
    #[error("no match for platform in manifest {digest}: not found: wanted {wanted}")]
    NoPlatform {
        /// Digest of the index.
        digest: Digest,
        /// Platform of this machine.
        wanted: String,
    },
    /// What came is not what was asked for.
    #[error("blob {expected}: got {found}")]
    Mismatch {
        /// The digest that was asked for.
        expected: Digest,
        /// What came: another digest, or another size.
        found: String,
    },
    /// A layer could not be unpacked.
    #[error("unpack layer {layer}")]
    Layer {
        /// Digest of the layer's blob.
        layer: Digest,
        /// What is wrong with it, or with our disk.
        source: Fault,
    },
    /// What the image was unpacked from is not here whole: it came in other words with another image, which was
    /// removed.
    #[error("image {image}: blob {blob} of a layer is not here any more; remove the image and pull it again")]
    BlobMissing {
        /// Id of the image.
        image: Digest,
        /// Digest of the blob.
        blob: Digest,
    },
    /// An archive given to import cannot be used.
    #[error("import the archive: {why}")]
    Archive {
        /// What is wrong with it.
        why: String,
    },
    /// The store on disk could not be read or written.
    #[error("{act} {}", path.display())]
    Disk {
        /// What was done.
        act: &'static str,
        /// Where.
        path: PathBuf,
        /// The kernel's reason.
        source: io::Error,
    },
    /// A record of the store could not be read or written.
    #[error("keep the record of an image")]
    Record(#[from] disk::Error),
    /// Everyone who wanted this pull has gone.
    #[error("the pull was cancelled")]
    Cancelled,
    /// The same, for each of several callers who waited for one act.
    #[error(transparent)]
    Joined(Arc<Error>),
}

impl Error {
    /// What the caller may do about it.
    pub fn class(&self) -> Class {
        match self {
            Error::NotFound { .. } | Error::NoPlatform { .. } => Class::NotFound,
            Error::Ambiguous { .. }
            | Error::Reference(_)
            | Error::NoTag { .. }
            | Error::Credentials { .. }
            | Error::Archive { .. } => Class::Invalid,
            Error::Registry { tried, .. } => registry_class(tried),
            Error::Policy { wants: Some(_), .. } => Class::Unsupported,
            Error::Policy { wants: None, .. } => Class::Denied,
            Error::Hosts { .. }
            | Error::InUse { .. }
            | Error::SeveralNames { .. }
            | Error::BlobMissing { .. }
            | Error::CheckUnderWay => Class::Precondition,
            Error::Content { .. }
            | Error::Mismatch { .. }
            | Error::Setting { .. }
            | Error::SettingName { .. }
            | Error::SettingPattern { .. } => Class::Invalid,
            Error::MediaType { .. } => Class::Unsupported,
            Error::Layer { source, .. } => source.class(),
            Error::Disk { source, .. } => Class::of_kernel(source),
            Error::Record(error) => error.class(),
            Error::Cancelled => Class::Cancelled,
            Error::MadeToFail(_) => Class::Internal,
            Error::Joined(error) => error.class(),
        }
    }

    /// The constant of the kubelet's `cri-api/pkg/errors` that the text begins with, if it does. The kubelet matches it
    /// only in errors of gRPC code Unknown.
    pub fn kubelet_const(&self) -> Option<&'static str> {
        match self {
            Error::Registry { tried, .. } if registry_class(tried) == Class::Unavailable => Some(REGISTRY_UNAVAILABLE),
            Error::Policy { .. } => Some(SIGNATURE_VALIDATION_FAILED),
            Error::Joined(error) => error.kubelet_const(),
            _ => None,
        }
    }

    /// Whether hosts have not given what was asked for: another attempt may be told something else.
    pub(crate) fn is_of_registry(&self) -> bool {
        match self {
            Error::Registry { .. } => true,
            Error::Joined(error) => error.is_of_registry(),
            _ => false,
        }
    }

    /// Whether every host has sent something, and all of it was wrong.
    pub(crate) fn is_of_content(&self) -> bool {
        match self {
            Error::Registry { tried, .. } => {
                tried.iter().all(|attempt| matches!(attempt.outcome, Outcome::Spoiled { .. }))
            }
            Error::Joined(error) => error.is_of_content(),
            _ => false,
        }
    }

    /// For `map_err`: the act and the place of an I/O error of ours.
    pub(crate) fn disk(act: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Error {
        let path = path.into();
        move |source| Error::Disk { act, path, source }
    }
}

fn describe(what: &str, tried: &[Attempt]) -> String {
    let prefix = match registry_class(tried) {
        Class::Unavailable => format!("{REGISTRY_UNAVAILABLE}: "),
        _ => String::new(),
    };
    let tried = match tried {
        [] => "no configured host may be asked for it".to_owned(),
        tried => tried.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "),
    };
    format!("{prefix}pull {what}: {tried}")
}

fn describe_policy(act: &str, path: &Path, scope: &str, wants: Option<&str>) -> String {
    let why = match wants {
        Some(kind) => format!("it wants {kind}, and signatures are not verified here yet"),
        None => "it rejects the image".to_owned(),
    };
    format!("{SIGNATURE_VALIDATION_FAILED}: {act}: {} at {scope}: {why}", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(outcomes: &[Outcome]) -> Error {
        let tried = outcomes.iter().map(|o| Attempt { host: "r.io".into(), outcome: o.clone() }).collect();
        Error::Registry { what: "r.io/x:y".into(), tried }
    }

    #[test]
    fn the_most_telling_answer_of_all_hosts_decides() {
        let silent = Outcome::Unreachable { why: "connection refused".into() };
        let status = |status| Outcome::Refused { status, detail: String::new(), wait: None };
        for (outcomes, class) in [
            (vec![silent.clone()], Class::Unavailable),
            (vec![Outcome::Broken { why: "connection reset".into() }], Class::Unavailable),
            (vec![status(503), silent.clone()], Class::Unavailable),
            (vec![silent.clone(), status(404)], Class::NotFound),
            (vec![status(404), status(401)], Class::Denied),
            (vec![status(429)], Class::Unavailable),
            (vec![status(400)], Class::Invalid),
            (vec![silent, Outcome::Spoiled { why: "garbage".into() }], Class::Invalid),
        ] {
            let error = error(&outcomes);
            assert_eq!(error.class(), class, "{error}");
            assert_eq!(error.kubelet_const().is_some(), class == Class::Unavailable);
            assert_eq!(error.to_string().starts_with("RegistryUnavailable: "), class == Class::Unavailable);
        }
    }
}
