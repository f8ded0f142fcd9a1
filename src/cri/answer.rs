//! From nouns to wire: what pods, containers and images are, as the contract spells it. Pure and from memory.

pub(crate) mod chunk;
pub(crate) mod container;
pub(crate) mod image;
pub(crate) mod info;
pub(crate) mod pod;
pub(crate) mod time;
