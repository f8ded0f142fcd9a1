//! `coracle-monitor`: the launcher, and the monitors that it forks.

fn main() {
    monitor::run()
}
