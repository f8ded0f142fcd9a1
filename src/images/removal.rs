//! What a person's removal takes: a name, or the image with its last one. As Docker's `rmi` has it; the kubelet's
//! removal is simpler, and always takes everything.

use model::{Digest, ImageRef};

use crate::{Error, Image, Result};

/// Whether a removal that may be a mistake is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Force {
    /// Refuse what containers use, and an id that several names lead to.
    No,
    /// Do it. What containers use leaves the disk with the last of them.
    Yes,
}

/// What a removal took.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Removed {
    /// Names that the image has no longer.
    pub names: Vec<String>,
    /// The image, when nothing is left of it that could be listed.
    pub image: Option<Digest>,
}

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Removal {
    /// These names go, others stay.
    Names(Vec<String>),
    /// All of it goes.
    Image,
}

/// Decides it for `what`, which led to `image`.
pub(crate) fn decide(image: &Image, what: &str, leased: bool, force: Force) -> Result<Removal> {
    let named = what.parse::<ImageRef>().ok().filter(|name| has(image, &name.to_string()));
    if let Some(name) = named {
        let going = going(image, &name);
        if going.len() < image.tags.len() + image.digests.len() {
            return Ok(Removal::Names(going));
        }
    } else if force == Force::No && is_shared(image) {
        return Err(Error::SeveralNames { what: what.to_owned(), names: image.tags.clone() });
    }
    if leased && force == Force::No {
        return Err(Error::InUse { what: what.to_owned() });
    }
    Ok(Removal::Image)
}

fn has(image: &Image, name: &str) -> bool {
    image.tags.iter().chain(&image.digests).any(|own| own == name)
}

/// The name, and with the last tag of a repository also the digests that the image was pulled by from there.
fn going(image: &Image, name: &ImageRef) -> Vec<String> {
    let text = name.to_string();
    let mut going = vec![text.clone()];
    let repository = name.name();
    let others = image.tags.iter().any(|tag| *tag != text && repository_of(tag) == repository);
    if name.tag().is_some() && !others {
        going.extend(image.digests.iter().filter(|digest| repository_of(digest) == repository).cloned());
    }
    going
}

/// Several names lead to it, beside the digests that it was pulled by.
fn is_shared(image: &Image) -> bool {
    let names = || image.tags.iter().chain(&image.digests);
    let first = names().next().map(|name| repository_of(name));
    image.tags.len() > 1 || names().any(|name| Some(repository_of(name)) != first)
}

/// The names of an image are written whole: what is behind the last colon, or the `@`, is tag or digest.
fn repository_of(name: &str) -> &str {
    match name.split_once('@') {
        Some((repository, _)) => repository,
        None => name.rsplit_once(':').map_or(name, |(repository, _)| repository),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use oci_spec::image::ImageConfiguration;

    use super::*;
    use crate::{pinned::Pins, record::ImageRecord, shelf};

    fn image(tags: &[&str], digests: &[&str]) -> Image {
        let id = Digest::from_sha256([1; 32]);
        let record = ImageRecord {
            id: id.clone(),
            tags: tags.iter().map(|tag| ((*tag).to_owned(), 0)).collect(),
            digests: digests.iter().map(|digest| (*digest).to_owned()).collect(),
            roots: Vec::new(),
            manifest: id,
            documents: BTreeMap::new(),
            layers: Vec::new(),
            removed: false,
        };
        shelf::image(&Pins::default(), record, ImageConfiguration::default()).unwrap()
    }

    fn names(names: &[&str]) -> Removal {
        Removal::Names(names.iter().map(|name| (*name).to_owned()).collect())
    }

    #[test]
    fn a_name_goes_alone_and_the_last_one_takes_the_image_along() {
        let digest = format!("r.io/x@{}", Digest::from_sha256([2; 32]));
        let decide = |image: &Image, what: &str| decide(image, what, false, Force::No);
        let two = image(&["r.io/x:1", "r.io/x:2"], &[&digest]);
        assert_eq!(decide(&two, "r.io/x:1").unwrap(), names(&["r.io/x:1"]));
        assert_eq!(decide(&two, &digest).unwrap(), names(&[&digest]));
        let apart = image(&["r.io/x:1", "other:5000/y:1"], &[&digest]);
        assert_eq!(decide(&apart, "r.io/x:1").unwrap(), names(&["r.io/x:1", &digest]));
        assert_eq!(decide(&apart, "other:5000/y:1").unwrap(), names(&["other:5000/y:1"]));
        assert_eq!(decide(&image(&["r.io/x:1"], &[&digest]), "r.io/x:1").unwrap(), Removal::Image);
        assert_eq!(decide(&image(&[], &[&digest]), &digest).unwrap(), Removal::Image);
        // What is familiar is the same name.
        let short = image(&["docker.io/library/x:latest", "r.io/x:1"], &[]);
        assert_eq!(decide(&short, "x").unwrap(), names(&["docker.io/library/x:latest"]));
    }

    #[test]
    fn what_may_be_a_mistake_has_to_be_forced() {
        let digest = format!("r.io/x@{}", Digest::from_sha256([2; 32]));
        let by_id = |image: &Image, force| decide(image, image.id.hex(), false, force);
        for one in [image(&[], &[]), image(&["r.io/x:1"], &[&digest]), image(&["r.io/x:1"], &[])] {
            assert_eq!(by_id(&one, Force::No).unwrap(), Removal::Image);
        }
        for several in [image(&["r.io/x:1", "r.io/x:2"], &[]), image(&["r.io/y:1"], &[&digest])] {
            assert!(matches!(by_id(&several, Force::No), Err(Error::SeveralNames { .. })));
            assert_eq!(by_id(&several, Force::Yes).unwrap(), Removal::Image);
        }
        let used = image(&["r.io/x:1"], &[]);
        assert!(matches!(decide(&used, "r.io/x:1", true, Force::No), Err(Error::InUse { .. })));
        assert_eq!(decide(&used, "r.io/x:1", true, Force::Yes).unwrap(), Removal::Image);
        // A name of several may go from an image in use: it stays what it is.
        let used = image(&["r.io/x:1", "r.io/x:2"], &[]);
        assert_eq!(decide(&used, "r.io/x:1", true, Force::No).unwrap(), names(&["r.io/x:1"]));
    }
}
