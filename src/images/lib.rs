//! Images: from a name to layers on disk that an overlay can be made of.
//!
//! `reference → registry (hosts, auth) → content (blobs by digest) → unpack (a layer a directory) → record`. A blob or
//! a layer has its final name only once its digest is verified, and an image is listed only once everything it needs is
//! on the medium. A layer's name is its chain id, which binds it to every layer below: no image can poison another.
//!
//! ```text
//! <root>/records/<config digest>     one record an image: names, digests, layers, sizes
//! <root>/blobs/<digest>              manifests, configurations, compressed layers
//! <root>/layers/<chain id>/          a layer, as overlay wants a lower directory
//! <root>/ingest/                     what is being made; emptied at start
//! <root>/trash/                      what is being deleted; emptied at start
//! ```
//!
//! Archives enter by the same way, and leave as one that is an OCI layout and what `docker save` writes.
//! Owns: everything below its root. Never knows: pods, containers, the CRI.

mod account;
mod arrival;
mod assemble;
mod blob;
mod bounded_json;
mod budget;
mod chain;
mod check;
mod claim;
mod config;
mod credentials;
mod docker_config;
mod downloads;
mod early;
mod error;
mod explanation;
mod export;
mod facts;
mod fetch;
mod flight;
mod hash;
mod helper;
mod image;
mod import;
mod index;
mod inflate;
mod layer;
mod left_over;
mod manifest;
mod media_type;
mod open;
mod pinned;
mod place;
mod platform;
mod policy;
mod progress;
mod pull;
mod record;
mod registry;
mod removal;
mod shelf;
mod stack;
mod step;
mod store;
mod tar_stream;
mod threads;
mod trash;
mod turns;
mod unpack;

pub use check::{Check, End, Finding, Object, Repair, Wrong};
pub use claim::Lease;
pub use config::{Config, Limits};
pub use credentials::{AuthFields, Credentials};
pub use error::{Attempt, Error, Fault, Outcome};
pub use explanation::{Asking, CredentialSource, Explanation, HostAnswer, HostExplained};
pub use export::Export;
pub use image::{FsUsage, Image, ImageUser, Leased};
pub use import::{Import, Loaded};
pub use index::{Held, Holdings, ImageHeld};
pub use progress::{LayerProgress, Stage, Watch};
pub use pull::Pulled;
pub use removal::{Force, Removed};
pub use step::Step;
pub use store::Images;

/// What the acts of this room return.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// How many demands a value of `WWW-Authenticate` holds that we can meet. For the fuzz targets, which come in by no
/// other way: what a demand names would be asked.
#[doc(hidden)]
pub fn demands(header: &str) -> usize {
    registry::challenge::challenges(header).len()
}
