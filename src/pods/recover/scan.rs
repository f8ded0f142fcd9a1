//! What a start finds in a store of records: those that can be read, and the names of the others.

use std::collections::BTreeSet;

use crate::error::Error;

/// What lay in a store of records.
pub(super) struct Scanned<T> {
    /// Name and content of those that can be read.
    pub(super) good: Vec<(String, T)>,
    /// Names of records that are there, or in quarantine, and cannot be read.
    pub(super) unread: BTreeSet<String>,
    /// Those of them that lie where they always did: the next one of that name would take their place.
    pub(super) in_place: BTreeSet<String>,
}

impl<T> Scanned<T> {
    /// Every name that has a record, readable or not.
    pub(super) fn known(&self) -> BTreeSet<String> {
        self.good.iter().map(|(name, _)| name.clone()).chain(self.unread.iter().cloned()).collect()
    }

    /// Counts these among the unread, though they could be read.
    pub(super) fn give_up(&mut self, names: &BTreeSet<String>) -> Vec<T> {
        let (given_up, good) = std::mem::take(&mut self.good).into_iter().partition(|(name, _)| names.contains(name));
        self.good = good;
        let given_up: Vec<(String, T)> = given_up;
        self.unread.extend(given_up.iter().map(|(name, _)| name.clone()));
        given_up.into_iter().map(|(_, record)| record).collect()
    }
}

/// Reads a store. What cannot be read is named in the log, at each start.
pub(super) fn scan<T: serde::Serialize + serde::de::DeserializeOwned>(
    store: &disk::Store<T>,
    what: &'static str,
) -> Result<Scanned<T>, Error> {
    let failed = |error| Error::file("scan the records in", store.path(""), std::io::Error::other(error));
    // Before the scan, which adds to it: those have a line of their own.
    let earlier = store.quarantined().map_err(failed)?;
    for name in &earlier {
        tracing::error!(record = what, name, "a record is in quarantine: what it stood for is left as it is");
    }
    let scan = store.scan().map_err(failed)?;
    let mut unread: BTreeSet<String> = earlier.into_iter().collect();
    let mut in_place = BTreeSet::new();
    for bad in scan.quarantined {
        if bad.path == store.path(&bad.name) {
            in_place.insert(bad.name.clone());
        }
        let why = &bad.why as &(dyn std::error::Error + 'static);
        tracing::error!(
            record = what, path = %bad.path.display(), why,
            "a record cannot be read: what it stands for is left as it is"
        );
        unread.insert(bad.name);
    }
    // A good one of the same name is a backup that somebody has put back.
    scan.good.iter().for_each(|(name, _)| _ = unread.remove(name));
    Ok(Scanned { good: scan.good, unread, in_place })
}
