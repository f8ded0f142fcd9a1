//! Which networks pods get now: those of the directory, or the built-in one while the directory has none.
//!
//! The directory is read when the network is opened and whenever the watch says so. What is read is judged before it
//! counts, so that a mistake in one file leaves the others, and what the file was before, as they are.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use cni::{Cache, Conflist, Directory, Fault};

use crate::{Config, NativePlugins, Result, chain::Chain};

/// The directory, and the networks of it that count.
#[derive(Debug, Clone)]
pub(crate) struct Selection {
    directory: Option<Directory>,
    builtin: Option<Arc<Chain>>,
    maker: Maker,
    /// How many of the directory's networks count; 0: all.
    most: usize,
    chains: Vec<Arc<Chain>>,
}

/// How a list becomes a network.
#[derive(Debug, Clone)]
pub(crate) struct Maker {
    pub(crate) wanted: NativePlugins,
    pub(crate) cache_dir: PathBuf,
}

impl Maker {
    /// The network of a list from the directory.
    pub(crate) fn chain(&self, list: Conflist) -> Result<Chain> {
        Chain::new(list, &self.wanted, None, Cache::new(self.cache_dir.clone()))
    }
}

impl Selection {
    pub(crate) fn open(config: &Config, builtin: Option<Arc<Chain>>) -> Self {
        let maker = Maker { wanted: config.native_plugins.clone(), cache_dir: config.cache_dir.clone() };
        let judge = maker.clone();
        let judge = move |list: &Conflist| judge.chain(list.clone()).map(drop).map_err(|error| error.to_string());
        let directory = config.conf_dir.clone().map(|dir| Directory::open(dir, judge));
        let mut selection = Self { directory, builtin, maker, most: config.max_conf_num, chains: Vec::new() };
        selection.choose();
        selection
    }

    /// Reads the directory again. Whether anything has changed.
    pub(crate) fn read_again(&mut self) -> bool {
        let changed = self.directory.as_mut().is_some_and(Directory::read_again);
        if changed {
            self.choose();
        }
        changed
    }

    /// The networks that pods get, in order.
    pub(crate) fn chains(&self) -> &[Arc<Chain>] {
        &self.chains
    }

    /// Files of the directory that give no network.
    pub(crate) fn faults(&self) -> &[Fault] {
        self.directory.as_ref().map_or(&[], Directory::faults)
    }

    /// The file that gives the network of this name.
    pub(crate) fn file_of(&self, network: &str) -> Option<&Path> {
        self.directory.as_ref()?.file_of(network)
    }

    /// A file beside this one that gives a network.
    pub(crate) fn other_than(&self, file: &Path) -> Option<PathBuf> {
        let directory = self.directory.as_ref()?;
        let mut files = directory.lists().iter().filter_map(|list| directory.file_of(&list.name));
        files.find(|other| *other != file).map(Path::to_owned)
    }

    /// The network of a list that was chosen earlier: the same one where it still counts.
    pub(crate) fn find(&self, text: &str, builtin: bool) -> Option<Arc<Chain>> {
        let own = self.builtin.as_ref().filter(|_| builtin);
        own.into_iter().chain(&self.chains).find(|chain| chain.builtin == builtin && *chain.list.text == *text).cloned()
    }

    pub(crate) fn maker(&self) -> &Maker {
        &self.maker
    }

    /// Why there is no network.
    pub(crate) fn why_none(&self) -> String {
        let Some(dir) = self.directory.as_ref().map(Directory::path) else { return "there is no network".into() };
        match self.faults() {
            // The first words are those by which people and dashboards know this state.
            [] => format!("cni plugin not initialized: no configuration in {}", dir.display()),
            [Fault { file, why }, ..] => format!("cni plugin not initialized: {}: {why}", file.display()),
        }
    }

    fn choose(&mut self) {
        let lists = self.directory.as_ref().map_or(&[][..], Directory::lists);
        let most = if self.most == 0 { lists.len() } else { self.most };
        let before = std::mem::take(&mut self.chains);
        for list in lists.iter().take(most) {
            // A network that is as it was keeps what it knows of its bridge.
            let kept = before.iter().find(|chain| !chain.builtin && chain.list.text == list.text).cloned();
            match kept.map_or_else(|| self.maker.chain((**list).clone()).map(Arc::new), Ok) {
                Ok(chain) => self.chains.push(chain),
                // It was judged a moment ago, by the same rules.
                Err(error) => tracing::error!(network = list.name, %error, "a network that was good is not any more"),
            }
        }
        if self.chains.is_empty() && self.faults().is_empty() {
            self.chains.extend(self.builtin.clone());
        }
    }
}
