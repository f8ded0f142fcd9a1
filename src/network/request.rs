//! What a pod asks of the network, and how plugins are told.

use std::{collections::BTreeMap, net::IpAddr, path::Path};

use cni::Runtime;
use model::{Dns, PodId, PodPlan, PortMapping};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::{Error, Result};

/// Annotations by which Kubernetes limits a pod's traffic, in bits a second.
const INGRESS: &str = "kubernetes.io/ingress-bandwidth";
const EGRESS: &str = "kubernetes.io/egress-bandwidth";
/// Between which limits Kubernetes takes a rate.
const RATES: std::ops::RangeInclusive<u64> = 1_000..=1_000_000_000_000_000;
/// What may be sent at once, in bits: as the field's runtimes tell it.
const BURST: u32 = u32::MAX;
/// Prefix of the annotations by which a pod chooses capability arguments, where it may.
const CHOSEN: &str = "cni.coracle.dev/";
/// Name of the capability by which plugins get all annotations of a pod.
const ANNOTATIONS: &str = "io.kubernetes.cri.pod-annotations";

/// What a pod asks of the network.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Request {
    /// The pod's name, namespace and uid, for plugins that look them up (`CNI_ARGS`).
    pub pod: PodNames,
    /// Addresses that it must get, at most one per range set; none leaves the choice to the network.
    pub addresses: Vec<IpAddr>,
    /// Its ports.
    pub ports: Vec<PortMapping>,
    /// Its resolver settings.
    pub dns: Option<Dns>,
    /// Its annotations.
    pub annotations: BTreeMap<String, String>,
    /// The parent of its cgroup.
    pub cgroup_parent: Option<String>,
}

/// Who the pod is to Kubernetes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PodNames {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
}

impl From<&PodPlan> for Request {
    fn from(plan: &PodPlan) -> Self {
        let of = &plan.metadata;
        Self {
            pod: PodNames { namespace: of.namespace.clone(), name: of.name.clone(), uid: of.uid.clone() },
            addresses: Vec::new(),
            ports: plan.port_mappings.clone(),
            dns: plan.dns.clone(),
            annotations: plan.annotations.clone(),
            cgroup_parent: plan.cgroup_parent.clone(),
        }
    }
}

impl Request {
    /// What plugins are told of one attachment. `chosen` are the capabilities whose arguments a pod may choose.
    pub(crate) fn runtime(
        &self,
        pod: &PodId,
        netns: Option<&Path>,
        interface: &str,
        chosen: &[String],
    ) -> Result<Runtime> {
        let arg = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        Ok(Runtime {
            container: pod.to_string(),
            netns: netns.map(Path::to_owned),
            interface: interface.to_owned(),
            args: vec![
                arg("IgnoreUnknown", "1"),
                arg("K8S_POD_NAMESPACE", &self.pod.namespace),
                arg("K8S_POD_NAME", &self.pod.name),
                arg("K8S_POD_INFRA_CONTAINER_ID", pod.as_str()),
                arg("K8S_POD_UID", &self.pod.uid),
            ],
            capabilities: self.capabilities(chosen)?,
        })
    }

    /// Everything that a plugin may declare that it takes (CNI's conventions, "well-known capabilities").
    fn capabilities(&self, chosen: &[String]) -> Result<Map<String, Value>> {
        let mut all = Map::new();
        for capability in chosen {
            if let Some(text) = self.annotations.get(&format!("{CHOSEN}{capability}")) {
                // A list or an object as JSON; anything else is a text.
                let value = serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.clone()));
                all.insert(capability.clone(), value);
            }
        }
        let ports: Vec<Value> = self.ports.iter().filter_map(port_mapping).collect();
        if !ports.is_empty() {
            all.insert("portMappings".into(), ports.into());
        }
        let (ingress, egress) = (self.rate(INGRESS)?, self.rate(EGRESS)?);
        let mut bandwidth = Map::new();
        for (key, burst, rate) in [("ingressRate", "ingressBurst", ingress), ("egressRate", "egressBurst", egress)] {
            if let Some(rate) = rate {
                bandwidth.insert(key.into(), rate.into());
                bandwidth.insert(burst.into(), BURST.into());
            }
        }
        if !bandwidth.is_empty() {
            all.insert("bandwidth".into(), bandwidth.into());
        }
        if let Some(Dns { servers, searches, options }) = &self.dns {
            all.insert("dns".into(), json!({"servers": servers, "searches": searches, "options": options}));
        }
        if let Some(parent) = &self.cgroup_parent {
            all.insert("cgroupPath".into(), parent.clone().into());
        }
        if !self.annotations.is_empty() {
            all.insert(ANNOTATIONS.into(), json!(self.annotations));
        }
        if !self.addresses.is_empty() {
            all.insert("ips".into(), json!(self.addresses));
        }
        Ok(all)
    }

    fn rate(&self, annotation: &str) -> Result<Option<u64>> {
        let Some(text) = self.annotations.get(annotation) else { return Ok(None) };
        let refused = |why: &str| Error::Asked { capability: annotation.into(), why: format!("{text:?} {why}") };
        let rate = quantity(text).ok_or_else(|| refused("is no quantity, as 10M is"))?;
        if RATES.contains(&rate) { Ok(Some(rate)) } else { Err(refused("is outside 1k to 1P bits a second")) }
    }
}

/// A port of the pod that the host shows; the others need nothing.
fn port_mapping(mapping: &PortMapping) -> Option<Value> {
    let mut told = json!({
        "hostPort": mapping.host_port?,
        "containerPort": mapping.container_port,
        "protocol": mapping.protocol,
    });
    // Always there, as the field's runtimes tell it.
    told["hostIP"] = mapping.host_ip.map(|ip| ip.to_string()).unwrap_or_default().into();
    Some(told)
}

/// A quantity of Kubernetes (`apimachinery/pkg/api/resource`) as a whole number, rounded up: `10M`, `1.5Gi`, `1e6`.
fn quantity(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(digits);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if number.is_empty() || number == "." || number.len() > 30 || fraction.contains('.') {
        return None;
    }
    let unit: u128 = match suffix {
        "" => 1,
        "k" => 1000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        "T" => 1_000_000_000_000,
        "P" => 1_000_000_000_000_000,
        "E" => 1_000_000_000_000_000_000,
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        "Ti" => 1 << 40,
        "Pi" => 1 << 50,
        "Ei" => 1 << 60,
        exponent => {
            let power: u32 = exponent.strip_prefix(['e', 'E'])?.parse().ok()?;
            10_u128.checked_pow(power)?
        }
    };
    let parse = |digits: &str| if digits.is_empty() { Some(0) } else { digits.parse::<u128>().ok() };
    let whole = parse(whole)?.checked_mul(unit)?;
    let scale = 10_u128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let part = parse(fraction)?.checked_mul(unit)?.div_ceil(scale);
    u64::try_from(whole.checked_add(part)?).ok()
}

#[cfg(test)]
mod tests {
    use model::Protocol;
    use proptest::prelude::*;

    use super::*;

    fn pod() -> PodId {
        PodId::from_random([7; 32])
    }

    fn told(request: &Request, chosen: &[&str]) -> Result<Map<String, Value>> {
        let chosen: Vec<String> = chosen.iter().map(|name| (*name).to_owned()).collect();
        Ok(request.runtime(&pod(), None, "eth0", &chosen)?.capabilities)
    }

    #[test]
    fn plugins_are_told_what_the_field_s_runtimes_tell_them() {
        let ports = [(80, Some(8080), Some("192.0.2.1")), (81, None, None), (53, Some(5353), None)];
        let port = |(container_port, host_port, host_ip): (u16, Option<u16>, Option<&str>)| PortMapping {
            protocol: Protocol::Udp,
            container_port,
            host_port,
            host_ip: host_ip.map(|ip| ip.parse().unwrap()),
        };
        let request = Request {
            pod: PodNames { namespace: "ns".into(), name: "name".into(), uid: "uid".into() },
            ports: ports.map(port).to_vec(),
            dns: Some(Dns { servers: vec!["10.0.0.10".into()], ..Dns::default() }),
            annotations: [(INGRESS.to_owned(), "10M".to_owned())].into(),
            cgroup_parent: Some("/kubepods/pod1".into()),
            addresses: Vec::new(),
        };
        let runtime = request.runtime(&pod(), Some("/run/netns/a".as_ref()), "eth0", &[]).unwrap();
        let keys: Vec<_> = runtime.args.iter().map(|(key, _)| key.as_str()).collect();
        assert_eq!(
            keys,
            ["IgnoreUnknown", "K8S_POD_NAMESPACE", "K8S_POD_NAME", "K8S_POD_INFRA_CONTAINER_ID", "K8S_POD_UID"]
        );
        let expected = json!({
            "portMappings": [
                {"hostPort": 8080, "containerPort": 80, "protocol": "udp", "hostIP": "192.0.2.1"},
                {"hostPort": 5353, "containerPort": 53, "protocol": "udp", "hostIP": ""},
            ],
            "bandwidth": {"ingressRate": 10_000_000, "ingressBurst": u32::MAX},
            "dns": {"servers": ["10.0.0.10"], "searches": [], "options": []},
            "cgroupPath": "/kubepods/pod1",
            "io.kubernetes.cri.pod-annotations": {"kubernetes.io/ingress-bandwidth": "10M"},
        });
        assert_eq!(Value::Object(runtime.capabilities), expected);
        assert!(told(&Request::default(), &[]).unwrap().is_empty());
    }

    #[test]
    fn a_pod_chooses_only_what_the_settings_let_it_choose() {
        let annotation = |name: &str, value: &str| (format!("{CHOSEN}{name}"), value.to_owned());
        let annotations = [annotation("mac", "c2:11:22:33:44:55"), annotation("ips", r#"["10.0.0.7"]"#)].into();
        let request = Request { annotations, ..Request::default() };
        let all = told(&request, &["mac", "ips"]).unwrap();
        assert_eq!((&all["mac"], &all["ips"]), (&json!("c2:11:22:33:44:55"), &json!(["10.0.0.7"])));
        let none = told(&request, &[]).unwrap();
        assert!(!none.contains_key("mac") && !none.contains_key("ips"), "{none:?}");
    }

    #[test]
    fn rates_are_quantities_within_kubernetes_limits() {
        for (text, rate) in [
            ("10M", 10_000_000),
            ("1Ki", 1024),
            ("1.5k", 1500),
            ("0.0015M", 1500),
            ("1e6", 1_000_000),
            ("2E3", 2000),
            ("1000", 1000),
            ("1P", 1_000_000_000_000_000),
        ] {
            assert_eq!(quantity(text), Some(rate), "{text}");
        }
        for bad in ["", "k", ".", "-1", "1.2.3", "1x", "1e", "10 M", "1e99", "999", "2P", "1E"] {
            let annotations = [(EGRESS.to_owned(), bad.to_owned())].into();
            let refused = told(&Request { annotations, ..Request::default() }, &[]).unwrap_err();
            assert!(matches!(&refused, Error::Asked { capability, .. } if capability == EGRESS), "{bad}: {refused}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_the_reader_of_quantities_panic(text in "[0-9.eEkKMGTPi]{0,40}") {
            let _ = quantity(&text);
        }
    }
}
