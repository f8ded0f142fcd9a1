//! UpdateRuntimeConfig: the node is told which ranges its pods have. With a template in the settings a network is
//! configured from them, as containerd does; without one there is nothing to do. A kubelet that has no range yet never
//! hears an error.

use api::cri::v1::{UpdateRuntimeConfigRequest, UpdateRuntimeConfigResponse};
use ipnet::IpNet;
use network::Network;

use crate::{error::Error, field::Field};

/// Most ranges: one of each family, with room for what is to come.
const RANGES_MAX: usize = 16;

/// Configures the network where it is to be.
pub(crate) async fn answer(
    request: UpdateRuntimeConfigRequest,
    network: &Network,
) -> Result<UpdateRuntimeConfigResponse, Error> {
    let ranges = ranges(&request)?;
    if !ranges.is_empty() {
        network.configure(ranges).await?;
    }
    Ok(UpdateRuntimeConfigResponse {})
}

/// The ranges that the request names, in its order.
fn ranges(request: &UpdateRuntimeConfigRequest) -> Result<Vec<IpNet>, Error> {
    let config = request.runtime_config.as_ref().and_then(|config| config.network_config.as_ref());
    let text = config.map_or("", |config| config.pod_cidr.as_str());
    if text.trim().is_empty() {
        return Ok(Vec::new());
    }
    let (config, network) = (Field::root("runtime_config"), "network_config");
    let network = config.at(network);
    let invalid = |value: &str| {
        let want = "subnets apart by commas, as 10.1.0.0/24,fd00:1::/64";
        Error::invalid(&network.at("pod_cidr"), value, want)
    };
    // As Go's ParseCIDR and no more: what is written keeps its host bits.
    let ranges: Vec<IpNet> =
        text.split(',').map(|one| one.trim().parse().map_err(|_| invalid(one.trim()))).collect::<Result<_, _>>()?;
    if ranges.len() > RANGES_MAX { Err(invalid(text)) } else { Ok(ranges) }
}

#[cfg(test)]
mod tests {
    use api::cri::v1::{NetworkConfig, RuntimeConfig};
    use model::Class;

    use super::*;

    fn asked(pod_cidr: &str) -> Result<Vec<IpNet>, Error> {
        let network_config = Some(NetworkConfig { pod_cidr: pod_cidr.into() });
        ranges(&UpdateRuntimeConfigRequest { runtime_config: Some(RuntimeConfig { network_config }) })
    }

    #[test]
    fn ranges_of_one_or_both_families_are_taken_and_none_is_no_mistake() {
        for none in ["", " "] {
            assert!(asked(none).unwrap().is_empty());
        }
        assert!(ranges(&UpdateRuntimeConfigRequest::default()).unwrap().is_empty());
        let told = |text| asked(text).unwrap().iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(told("10.1.0.0/24"), ["10.1.0.0/24"]);
        assert_eq!(told("10.1.0.0/24, fd00:1::/64"), ["10.1.0.0/24", "fd00:1::/64"]);
    }

    #[test]
    fn a_malformed_range_is_named_with_its_field() {
        for (wrong, named) in [
            ("10.1.0.0", "\"10.1.0.0\""),
            ("10.1.0.0/33", "\"10.1.0.0/33\""),
            ("10.1.0.0/24,", "\"\""),
            ("10.1.0.0/24,x", "\"x\""),
            (&["10.1.0.0/24"; 17].join(","), "10.1.0.0/24,10.1.0.0/24"),
        ] {
            let error = asked(wrong).unwrap_err();
            let text = error.to_string();
            assert_eq!(error.class(), Class::Invalid, "{text}");
            assert!(text.starts_with("runtime_config.network_config.pod_cidr: ") && text.contains(named), "{text}");
        }
    }
}
