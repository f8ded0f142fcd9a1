//! The whole node through its CRI socket: one module a subject. Each test has a node of its own.

mod fault;
mod network;
mod restart;
mod support;
