//! A pod's configuration becomes a [`PodPlan`].

use std::net::IpAddr;

use api::cri::v1;
use model::{Dns, PodMetadata, PodPlan, PortMapping, Protocol};

use super::{Host, resources, security, sysctls, text};
use crate::{error::Error, field::Field};

/// Longest host name, bytes: the kernel's `__NEW_UTS_LEN`.
const HOSTNAME_MAX: usize = 64;
/// Most lines or words of each kind of DNS setting; resolvers look at 3 servers, Kubernetes stops at 32 domains.
const DNS_MOST: usize = 64;
/// Longest name in a DNS setting, bytes.
const DNS_LONGEST: usize = 255;
/// Most ports: all ports of all three protocols.
const PORTS_MAX: usize = 3 * 65_535;

/// The plan of a pod, from the configuration at `config`.
pub(crate) fn plan(config: Option<v1::PodSandboxConfig>, handler: String, host: &Host) -> Result<PodPlan, Error> {
    let field = Field::root("config");
    let config = text::present(&field, config)?;
    if let Some(windows) = config.windows {
        return Err(Error::refused(&field.at("windows"), windows, "this is a Linux node"));
    }
    if !host.has_handler(&handler) {
        let want = format!("one of the configured runtime handlers: {}", host.handlers.join(", "));
        return Err(Error::invalid(&Field::root("runtime_handler"), handler, want));
    }
    let linux = config.linux.unwrap_or_default();
    let at_linux = field.at("linux");
    let security = security::of_pod(&at_linux.at("security_context"), linux.security_context, host)?;
    let namespaces = security.namespaces;
    let informational = |name, wire: Option<v1::LinuxContainerResources>| {
        wire.map(|wire| resources::resources(&at_linux.at(name), wire)).transpose()
    };
    Ok(PodPlan {
        metadata: metadata(&field.at("metadata"), config.metadata)?,
        hostname: hostname(&field.at("hostname"), config.hostname)?,
        log_directory: match config.log_directory {
            none if none.is_empty() => None,
            given => {
                let field = field.at("log_directory");
                Some(text::without_parents(&field, text::absolute(&field, given)?)?)
            }
        },
        dns: config.dns_config.map(|wire| dns(&field.at("dns_config"), wire)).transpose()?,
        port_mappings: ports(&field.at("port_mappings"), config.port_mappings)?,
        labels: text::echoed(&field.at("labels"), config.labels)?,
        annotations: text::echoed(&field.at("annotations"), config.annotations)?,
        runtime_handler: handler,
        cgroup_parent: cgroup_parent(&at_linux.at("cgroup_parent"), linux.cgroup_parent)?,
        sysctls: sysctls::sysctls(&at_linux.at("sysctls"), linux.sysctls, &namespaces)?,
        namespaces,
        privileged: security.privileged,
        seccomp: security.seccomp,
        overhead: informational("overhead", linux.overhead)?,
        resources: informational("resources", linux.resources)?,
    })
}

fn metadata(field: &Field<'_>, wire: Option<v1::PodSandboxMetadata>) -> Result<PodMetadata, Error> {
    let wire = text::present(field, wire)?;
    Ok(PodMetadata {
        name: text::identity(&field.at("name"), wire.name)?,
        uid: text::identity(&field.at("uid"), wire.uid)?,
        namespace: text::identity(&field.at("namespace"), wire.namespace)?,
        attempt: wire.attempt,
    })
}

fn hostname(field: &Field<'_>, name: String) -> Result<Option<String>, Error> {
    if name.is_empty() {
        return Ok(None);
    }
    let name = text::text(field, name, HOSTNAME_MAX)?;
    if name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_')) {
        Ok(Some(name))
    } else {
        Err(Error::invalid(field, name, "letters, digits, dots and hyphens"))
    }
}

fn dns(field: &Field<'_>, wire: v1::DnsConfig) -> Result<Dns, Error> {
    // Each becomes a word of a line in resolv.conf: white space would make it two.
    let word = |field: &Field<'_>, word: String| {
        let word = text::text(field, word, DNS_LONGEST)?;
        if word.is_empty() || word.chars().any(|c| c.is_whitespace() || c.is_control()) {
            return Err(Error::invalid(field, word, "one word without white space"));
        }
        Ok(word)
    };
    let words = |name, list: Vec<String>| {
        let field = field.at(name);
        let list = text::at_most(&field, list, DNS_MOST)?;
        list.into_iter().enumerate().map(|(i, text)| word(&field.index(i), text)).collect::<Result<Vec<_>, Error>>()
    };
    let servers = words("servers", wire.servers)?;
    for (i, server) in servers.iter().enumerate() {
        // A link-local address may name its interface: fe80::1%eth0.
        let address = server.split_once('%').map_or(server.as_str(), |(address, _)| address);
        if address.parse::<IpAddr>().is_err() {
            return Err(Error::invalid(&field.at("servers").index(i), server, "an IP address"));
        }
    }
    Ok(Dns { servers, searches: words("searches", wire.searches)?, options: words("options", wire.options)? })
}

/// Ports of the pod. With the host's network a host port is the port itself, and nobody maps anything.
fn ports(field: &Field<'_>, ports: Vec<v1::PortMapping>) -> Result<Vec<PortMapping>, Error> {
    let ports = text::at_most(field, ports, PORTS_MAX)?;
    let ports = ports.into_iter().enumerate().map(|(i, wire)| port_mapping(&field.index(i), wire));
    ports.collect()
}

fn port_mapping(field: &Field<'_>, wire: v1::PortMapping) -> Result<PortMapping, Error> {
    let port = |name, value: i32, least| {
        let value = text::within(&field.at(name), value.into(), least, 65_535, "")?;
        Ok::<_, Error>(u16::try_from(value).expect("checked to be within 0 and 65535"))
    };
    let protocol = match text::known(&field.at("protocol"), wire.protocol, "TCP (0), UDP (1) or SCTP (2)")? {
        v1::Protocol::Tcp => Protocol::Tcp,
        v1::Protocol::Udp => Protocol::Udp,
        v1::Protocol::Sctp => Protocol::Sctp,
    };
    let host_ip = match wire.host_ip.as_str() {
        "" => None,
        given => match given.parse::<IpAddr>() {
            Ok(address) => Some(address),
            Err(_) => return Err(Error::invalid(&field.at("host_ip"), given, "an IP address, or empty for all")),
        },
    };
    Ok(PortMapping {
        protocol,
        container_port: port("container_port", wire.container_port, 1)?,
        host_port: Some(port("host_port", wire.host_port, 0)?).filter(|port| *port != 0),
        host_ip,
    })
}

fn cgroup_parent(field: &Field<'_>, parent: String) -> Result<Option<String>, Error> {
    if parent.is_empty() {
        return Ok(None);
    }
    let path = text::without_parents(field, text::path(field, parent.clone())?)?;
    if path.extension().is_some_and(|extension| extension == "slice") || parent.contains(':') {
        let want = "a cgroup path such as /kubepods/pod1: this node's driver is cgroupfs, not systemd";
        return Err(Error::invalid(field, parent, want));
    }
    // As the contract's users write it, with or without the first slash.
    let names: Vec<&str> = parent.split('/').filter(|name| !matches!(*name, "" | ".")).collect();
    Ok(Some(format!("/{}", names.join("/"))))
}

#[cfg(test)]
mod tests;
