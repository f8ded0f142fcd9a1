//! The place of a value in a request: what a message about it names.

use std::fmt;

/// A field's path, as a chain of stack frames: it costs nothing until a message is made of it.
pub(crate) struct Field<'a> {
    parent: Option<&'a Field<'a>>,
    step: Step<'a>,
}

enum Step<'a> {
    Name(&'static str),
    Index(usize),
    Key(&'a str),
}

/// Longest map key repeated in a path, characters.
const KEY_SHOWN: usize = 100;

impl<'a> Field<'a> {
    /// A field of the request itself.
    pub(crate) const fn root(name: &'static str) -> Field<'static> {
        Field { parent: None, step: Step::Name(name) }
    }

    /// A field of this message.
    pub(crate) fn at(&'a self, name: &'static str) -> Field<'a> {
        Field { parent: Some(self), step: Step::Name(name) }
    }

    /// An element of this list.
    pub(crate) fn index(&'a self, index: usize) -> Field<'a> {
        Field { parent: Some(self), step: Step::Index(index) }
    }

    /// An entry of this map.
    pub(crate) fn key(&'a self, key: &'a str) -> Field<'a> {
        Field { parent: Some(self), step: Step::Key(key) }
    }
}

impl fmt::Display for Field<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(parent) = self.parent {
            parent.fmt(f)?;
        }
        match self.step {
            Step::Name(name) if self.parent.is_some() => write!(f, ".{name}"),
            Step::Name(name) => f.write_str(name),
            Step::Index(index) => write!(f, "[{index}]"),
            Step::Key(key) => {
                let shown: String = key.chars().take(KEY_SHOWN).collect();
                write!(f, "[{shown:?}]")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_reads_like_the_request() {
        let config = Field::root("config");
        let mounts = config.at("mounts");
        let third = mounts.index(3);
        assert_eq!(third.at("host_path").to_string(), "config.mounts[3].host_path");
        assert_eq!(config.at("sysctls").key("net.x").to_string(), "config.sysctls[\"net.x\"]");
    }
}
