//! From wire to nouns: every part of a request is checked here and becomes a type of `model`, or the call is refused.
//!
//! Pure: nothing of the host is looked at but what [`Host`] says. Each function takes the path of what it reads, so
//! that a refusal names field, value and what would be right. Fates of all fields: `field_table`.

pub(crate) mod container;
pub(crate) mod environment;
pub(crate) mod filter;
pub(crate) mod image;
pub(crate) mod mounts;
pub(crate) mod namespaces;
pub(crate) mod pod;
pub(crate) mod resources;
pub(crate) mod security;
pub(crate) mod selinux;
pub(crate) mod signal;
pub(crate) mod sysctls;
pub(crate) mod text;

#[cfg(test)]
mod hostile;
#[cfg(test)]
pub(crate) mod kubelet;

/// What requests are measured against: settings and traits of this host that decide whether a value can be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Host {
    /// Names of the runtime handlers, beside the empty name of the default one.
    pub(crate) handlers: Vec<String>,
    /// The kernel enforces or reports SELinux labels.
    pub(crate) selinux: bool,
    /// The kernel confines by AppArmor.
    pub(crate) apparmor: bool,
}

impl Host {
    /// Whether a runtime handler of this name is configured; the empty name is the default one.
    pub(crate) fn has_handler(&self, name: &str) -> bool {
        name.is_empty() || self.handlers.iter().any(|known| known == name)
    }
}

#[cfg(test)]
impl Host {
    /// A host without LSMs and with the default handler alone.
    pub(crate) fn plain() -> Self {
        Host { handlers: vec!["coracle".to_owned()], selinux: false, apparmor: false }
    }
}
