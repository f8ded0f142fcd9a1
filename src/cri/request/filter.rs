//! What a list is narrowed to.

use std::collections::BTreeMap;

use api::cri::v1::{self, ContainerState, PodSandboxState};

use super::text;
use crate::{error::Error, field::Field};

/// Which pods a list has: all parts must match.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Pods {
    /// Beginning of the id; empty is any.
    pub(crate) id: String,
    /// State, if one is asked for.
    pub(crate) state: Option<PodSandboxState>,
    labels: Labels,
}

/// Which containers a list has: all parts must match.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Containers {
    /// Beginning of the id; empty is any.
    pub(crate) id: String,
    /// Beginning of the pod's id; empty is any.
    pub(crate) pod: String,
    /// State, if one is asked for.
    pub(crate) state: Option<ContainerState>,
    labels: Labels,
}

/// Labels that an object must have with exactly these values.
#[derive(Debug, Default, PartialEq, Eq)]
struct Labels(BTreeMap<String, String>);

impl Labels {
    fn match_all(&self, labels: &BTreeMap<String, String>) -> bool {
        self.0.iter().all(|(key, value)| labels.get(key) == Some(value))
    }
}

impl Pods {
    /// Reads a filter; none at all lets everything through.
    pub(crate) fn read(wire: Option<v1::PodSandboxFilter>) -> Result<Self, Error> {
        let Some(wire) = wire else { return Ok(Self::default()) };
        let field = Field::root("filter");
        Ok(Self {
            id: text::optional_id(&field.at("id"), wire.id)?,
            state: wire
                .state
                .map(|value| {
                    let names = "SANDBOX_READY (0) or SANDBOX_NOTREADY (1)";
                    text::known(&field.at("state"), value.state, names)
                })
                .transpose()?,
            labels: Labels(wire.label_selector),
        })
    }

    /// Whether a pod passes.
    pub(crate) fn passes(&self, id: &str, state: PodSandboxState, labels: &BTreeMap<String, String>) -> bool {
        id.starts_with(&self.id) && self.state.is_none_or(|wanted| wanted == state) && self.labels.match_all(labels)
    }
}

impl Containers {
    /// Reads a filter; none at all lets everything through.
    pub(crate) fn read(wire: Option<v1::ContainerFilter>) -> Result<Self, Error> {
        let Some(wire) = wire else { return Ok(Self::default()) };
        let field = Field::root("filter");
        Ok(Self {
            id: text::optional_id(&field.at("id"), wire.id)?,
            pod: text::optional_id(&field.at("pod_sandbox_id"), wire.pod_sandbox_id)?,
            state: wire
                .state
                .map(|value| {
                    let names = "CONTAINER_CREATED (0), RUNNING (1), EXITED (2) or UNKNOWN (3)";
                    text::known(&field.at("state"), value.state, names)
                })
                .transpose()?,
            labels: Labels(wire.label_selector),
        })
    }

    /// Whether a container passes.
    pub(crate) fn passes(&self, id: &str, pod: &str, state: ContainerState, labels: &BTreeMap<String, String>) -> bool {
        id.starts_with(&self.id)
            && pod.starts_with(&self.pod)
            && self.state.is_none_or(|wanted| wanted == state)
            && self.labels.match_all(labels)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_parts_of_a_filter_must_match() {
        let wire = v1::ContainerFilter {
            id: "ab".into(),
            state: Some(v1::ContainerStateValue { state: ContainerState::ContainerRunning.into() }),
            pod_sandbox_id: "cd".into(),
            label_selector: [("a".to_owned(), "1".to_owned())].into(),
        };
        let filter = Containers::read(Some(wire)).unwrap();
        let labels: BTreeMap<_, _> = [("a".to_owned(), "1".to_owned()), ("b".to_owned(), "2".to_owned())].into();
        let running = ContainerState::ContainerRunning;
        assert!(filter.passes("abc", "cde", running, &labels));
        assert!(!filter.passes("xbc", "cde", running, &labels));
        assert!(!filter.passes("abc", "xde", running, &labels));
        assert!(!filter.passes("abc", "cde", ContainerState::ContainerExited, &labels));
        assert!(!filter.passes("abc", "cde", running, &BTreeMap::new()));
        assert!(Containers::read(None).unwrap().passes("abc", "cde", running, &labels));
    }

    #[test]
    fn a_state_that_does_not_exist_is_refused_not_matched_with_nothing() {
        let state = Some(v1::PodSandboxStateValue { state: 9 });
        let error = Pods::read(Some(v1::PodSandboxFilter { state, ..Default::default() })).unwrap_err();
        assert!(error.to_string().starts_with("filter.state: 9"), "{error}");
    }
}
