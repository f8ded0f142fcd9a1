//! The launcher and the monitors: the processes that own containers and outlive the daemon.
