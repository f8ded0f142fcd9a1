//! Where readers find pods and containers: lists and statuses come from here, from memory, and can never be blocked by
//! a stuck pod. Keepers replace their pod's view; nobody else writes.

use std::{
    collections::BTreeMap,
    ops::Bound,
    sync::{Arc, PoisonError, RwLock},
};

use model::{ContainerId, PodId, PodMetadata};

use crate::{
    error::Error,
    keeper::Mailbox,
    view::{ContainerView, PodView},
};

/// A pod as the index knows it.
struct Entry {
    mailbox: Mailbox,
    /// The name that it has; `None` where another pod has the same.
    name: Option<PodMetadata>,
    /// `None` until the pod may be seen.
    view: Option<Arc<PodView>>,
}

#[derive(Default)]
struct Tables {
    pods: BTreeMap<PodId, Entry>,
    containers: BTreeMap<ContainerId, Arc<ContainerView>>,
    /// Who has the name of every live sandbox, and of those being made.
    names: BTreeMap<PodMetadata, PodId>,
}

/// The table of all pods.
#[derive(Default)]
pub(crate) struct Index(RwLock<Tables>);

/// What a name reservation found.
pub(crate) enum Reserved {
    /// The name is ours now.
    New,
    /// A pod has it already.
    Taken(PodId),
}

impl Index {
    fn read(&self) -> std::sync::RwLockReadGuard<'_, Tables> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, Tables> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives `name` to `id` unless another pod has it.
    pub(crate) fn reserve(&self, name: &PodMetadata, id: &PodId, mailbox: Mailbox) -> Reserved {
        let mut tables = self.write();
        if let Some(owner) = tables.names.get(name) {
            return Reserved::Taken(owner.clone());
        }
        tables.names.insert(name.clone(), id.clone());
        tables.pods.insert(id.clone(), Entry { mailbox, name: Some(name.clone()), view: None });
        Reserved::New
    }

    /// Knows a pod whose name another pod has: it can be stopped and removed by its id.
    pub(crate) fn insert_unnamed(&self, id: &PodId, mailbox: Mailbox) {
        self.write().pods.insert(id.clone(), Entry { mailbox, name: None, view: None });
    }

    /// Shows `view` to readers, in place of what was shown before.
    pub(crate) fn publish(&self, view: Arc<PodView>) {
        let mut tables = self.write();
        let Tables { pods, containers, .. } = &mut *tables;
        let Some(entry) = pods.get_mut(&view.id) else { return };
        for old in entry.view.iter().flat_map(|view| &view.containers) {
            containers.remove(&old.id);
        }
        containers.extend(view.containers.iter().map(|container| (container.id.clone(), container.clone())));
        entry.view = Some(view);
    }

    /// Forgets the pod and frees its name.
    pub(crate) fn remove(&self, id: &PodId) {
        let mut tables = self.write();
        let Some(entry) = tables.pods.remove(id) else { return };
        for container in entry.view.iter().flat_map(|view| &view.containers) {
            tables.containers.remove(&container.id);
        }
        if let Some(name) = entry.name {
            tables.names.remove(&name);
        }
    }

    /// Every pod that may be seen.
    pub(crate) fn pods(&self) -> Vec<Arc<PodView>> {
        self.read().pods.values().filter_map(|entry| entry.view.clone()).collect()
    }

    /// Every container of every pod that may be seen.
    pub(crate) fn containers(&self) -> Vec<Arc<ContainerView>> {
        self.read().containers.values().cloned().collect()
    }

    /// The pod whose id is, or begins with, `prefix`.
    pub(crate) fn pod(&self, prefix: &str) -> Result<Arc<PodView>, Error> {
        let tables = self.read();
        let visible = starting_with(&tables.pods, prefix).filter_map(|(_, entry)| entry.view.as_ref());
        one(visible, prefix, "pod sandboxes", |id| Error::NoPod { id }).cloned()
    }

    /// The container whose id is, or begins with, `prefix`.
    pub(crate) fn container(&self, prefix: &str) -> Result<Arc<ContainerView>, Error> {
        container(&self.read().containers, prefix).map(|(_, view)| view.clone())
    }

    /// How to reach the keeper of a pod, seen or not yet seen.
    pub(crate) fn mailbox(&self, id: &PodId) -> Option<Mailbox> {
        self.read().pods.get(id).map(|entry| entry.mailbox.clone())
    }
}

/// The only container of a table whose id is, or begins with, `prefix`.
pub(crate) fn container<'t, V>(
    table: &'t BTreeMap<ContainerId, V>,
    prefix: &'t str,
) -> Result<(&'t ContainerId, &'t V), Error> {
    one(starting_with(table, prefix), prefix, "containers", |id| Error::NoContainer { id })
}

/// The entries of `table` whose ids begin with `prefix`: ids sort as their text does.
fn starting_with<'t, K, V>(table: &'t BTreeMap<K, V>, prefix: &'t str) -> impl Iterator<Item = (&'t K, &'t V)>
where
    K: Ord + AsRef<str> + std::borrow::Borrow<str>,
{
    table
        .range::<str, _>((Bound::Included(prefix), Bound::Unbounded))
        .take_while(move |(id, _)| !prefix.is_empty() && id.as_ref().starts_with(prefix))
}

/// The only item, or why there is not exactly one.
fn one<T>(
    mut items: impl Iterator<Item = T>,
    prefix: &str,
    what: &'static str,
    absent: impl FnOnce(String) -> Error,
) -> Result<T, Error> {
    let shown = || prefix.chars().take(80).collect::<String>();
    let Some(first) = items.next() else { return Err(absent(shown())) };
    match items.count() {
        0 => Ok(first),
        more => Err(Error::Ambiguous { prefix: shown(), what, count: more + 1 }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &str, namespace: &str) -> PodMetadata {
        PodMetadata { name: name.to_owned(), namespace: namespace.to_owned(), uid: "u".to_owned(), attempt: 0 }
    }

    #[test]
    fn names_whose_parts_join_to_the_same_text_are_two_and_each_is_free_after_its_pod() {
        let index = Index::default();
        let (mailbox, _inbox) = tokio::sync::mpsc::channel(1);
        let (first, second) = (PodId::from_random([1; 32]), PodId::from_random([2; 32]));
        assert!(matches!(index.reserve(&named("a_b", "c"), &first, mailbox.clone()), Reserved::New));
        assert!(matches!(index.reserve(&named("a", "b_c"), &second, mailbox.clone()), Reserved::New));
        let taken = index.reserve(&named("a_b", "c"), &second, mailbox.clone());
        assert!(matches!(taken, Reserved::Taken(owner) if owner == first));
        index.remove(&first);
        assert!(matches!(index.reserve(&named("a_b", "c"), &first, mailbox.clone()), Reserved::New));
        assert!(
            matches!(index.reserve(&named("a", "b_c"), &first, mailbox), Reserved::Taken(owner) if owner == second)
        );
    }

    #[test]
    fn a_pod_without_its_name_takes_nobodys_name_along() {
        let index = Index::default();
        let (mailbox, _inbox) = tokio::sync::mpsc::channel(1);
        let (first, second) = (PodId::from_random([1; 32]), PodId::from_random([2; 32]));
        assert!(matches!(index.reserve(&named("a", "b"), &first, mailbox.clone()), Reserved::New));
        index.insert_unnamed(&second, mailbox.clone());
        index.remove(&second);
        assert!(matches!(index.reserve(&named("a", "b"), &second, mailbox), Reserved::Taken(owner) if owner == first));
    }

    #[test]
    fn a_prefix_that_two_containers_have_names_neither() {
        let ids = [[0x11; 32], [0x12; 32], [0x22; 32]].map(ContainerId::from_random);
        let table: BTreeMap<_, _> = ids.iter().map(|id| (id.clone(), ())).collect();
        assert_eq!(container(&table, "11").unwrap().0, &ids[0]);
        assert!(matches!(container(&table, "1"), Err(Error::Ambiguous { count: 2, .. })));
        for absent in ["3", ""] {
            assert!(matches!(container(&table, absent), Err(Error::NoContainer { .. })), "{absent:?}");
        }
    }
}
