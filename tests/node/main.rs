//! The whole node through its CRI socket: one module a subject. Each test has a node of its own.

mod log_file;
mod scene;
mod support;

mod container;
mod exec;
mod fault;
mod log;
mod network;
mod pod;
mod restart;
mod security;
