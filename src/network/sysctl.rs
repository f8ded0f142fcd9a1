//! Kernel parameters of the thread's own network namespace, below `/proc/sys/net`.

use std::{fs, io};

use crate::{Error, Result, link::Links};

/// Whether this kernel has IPv6 at all and it is not switched off for new links.
pub(crate) fn has_ipv6() -> bool {
    read("ipv6/conf/default/disable_ipv6").is_some_and(|value| value == "0")
}

/// Lets the host pass IPv4 packets on. Left alone when it does already.
pub(crate) fn forward_ipv4() -> Result<()> {
    set("ipv4/ip_forward", "1")
}

/// Lets the host pass IPv6 packets on.
///
/// A forwarding host stops listening to router advertisements and would lose a default route that it has from one:
/// links with such a route are told first to go on listening (`accept_ra = 2`).
pub(crate) fn forward_ipv6(links: &mut Links) -> Result<()> {
    let all = "ipv6/conf/all/forwarding";
    if read(all).as_deref() == Some("1") {
        return Ok(());
    }
    let routes = links.routes(true)?;
    for index in routes.iter().filter(|route| route.advertised).filter_map(|route| route.link) {
        if let Some(link) = links.by_index(index)? {
            let listen = conf("ipv6", &link.name, "accept_ra");
            if read(&listen).as_deref() == Some("1") {
                set(&listen, "2")?;
            }
        }
    }
    set(all, "1")
}

/// Turns IPv6 on for one link, where the kernel has it and it is off.
pub(crate) fn enable_ipv6(link: &str) -> Result<()> {
    set(&conf("ipv6", link, "disable_ipv6"), "0")
}

/// Makes link-local addresses of a link usable at once. With hairpin on, the search for a duplicate would meet
/// its own echo.
pub(crate) fn skip_duplicate_detection(link: &str) -> Result<()> {
    set(&conf("ipv6", link, "accept_dad"), "0")
}

/// Has a link look for somebody else with its addresses, and not take its own echo for one.
pub(crate) fn detect_duplicates(link: &str) -> Result<()> {
    for key in ["enhanced_dad", "accept_dad"] {
        let name = conf("ipv6", link, key);
        // A kernel without IPv6 has neither, and nothing to look for.
        if read(&name).is_some() {
            set(&name, "1")?;
        }
    }
    Ok(())
}

/// Has a pod's link tell its neighbours of an address that it gets: whoever had it before is forgotten.
pub(crate) fn announce(link: &str) -> Result<()> {
    set(&conf("ipv4", link, "arp_notify"), "1")
}

/// Keeps a link's addresses of IPv6 while it is down, as those of IPv4 are.
pub(crate) fn keep_addresses(link: &str) -> Result<()> {
    set(&conf("ipv6", link, "keep_addr_on_down"), "1")
}

/// Makes the host ignore router advertisements on one link; a kernel without IPv6 does anyway.
pub(crate) fn ignore_advertisements(link: &str) -> Result<()> {
    let name = conf("ipv6", link, "accept_ra");
    if read(&name).is_some() { set(&name, "0") } else { Ok(()) }
}

/// Lets packets of the host's own loopback leave by a link, and those back to it in.
pub(crate) fn route_localnet(link: &str) -> Result<()> {
    set(&conf("ipv4", link, "route_localnet"), "1")
}

/// Whether some link of the host does so, whoever has told it to.
pub(crate) fn some_route_localnet() -> bool {
    let links = fs::read_dir("/proc/sys/net/ipv4/conf").into_iter().flatten().flatten();
    let names = links.filter_map(|link| link.file_name().into_string().ok());
    names.filter(|name| name != "lo").any(|name| read(&conf("ipv4", &name, "route_localnet")).as_deref() == Some("1"))
}

/// The parameter of one link. Parameters are files: a dot in a link's name is just a character there.
fn conf(family: &str, link: &str, key: &str) -> String {
    format!("{family}/conf/{link}/{key}")
}

fn read(name: &str) -> Option<String> {
    fs::read_to_string(format!("/proc/sys/net/{name}")).ok().map(|text| text.trim().to_owned())
}

/// Writes the value unless it is that already: a host with read-only sysctls that are right is fine.
fn set(name: &str, value: &'static str) -> Result<()> {
    if read(name).as_deref() == Some(value) {
        return Ok(());
    }
    let fail = |source: io::Error| Error::Sysctl { name: format!("net/{name}"), value, source };
    fs::write(format!("/proc/sys/net/{name}"), value).map_err(fail)
}
