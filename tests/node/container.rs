//! A container: its life as the statuses tell it, what it runs and as whom, its limits, its mounts, its end.

mod device;
mod environment;
mod life;
pub(crate) mod limits;
mod list;
mod mount;
mod propagation;
mod start;
mod stdio;
mod stop;
mod user;
mod volume;
