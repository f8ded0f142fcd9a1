//! Addresses as this room passes them on: of the Internet and of hardware.

use std::net::IpAddr;

use ipnet::IpNet;

/// An address of a pod and the way out that belongs to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Address {
    /// The address with its subnet's prefix length.
    pub(crate) net: IpNet,
    /// The gateway on that subnet.
    pub(crate) gateway: Option<IpAddr>,
}

/// A hardware address as people write it.
pub(crate) fn mac_text(mac: [u8; 6]) -> String {
    let [a, b, c, d, e, f] = mac;
    format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
}

/// A hardware address as people write it, with colons or dashes.
pub(crate) fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let parts: Vec<_> = text.split([':', '-']).collect();
    // The library's reading of a number takes a sign too.
    let is_octet = |part: &str| part.len() == 2 && part.bytes().all(|digit| digit.is_ascii_hexdigit());
    let octet = |part: &&str| if is_octet(part) { u8::from_str_radix(part, 16).ok() } else { None };
    parts.iter().map(octet).collect::<Option<Vec<u8>>>()?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hardware_addresses_are_read_as_they_are_written() {
        let mac = [0x0a, 0x58, 0, 1, 0xfe, 2];
        assert_eq!(parse_mac(&mac_text(mac)), Some(mac));
        assert_eq!(parse_mac("0A-58-00-01-FE-02"), Some(mac));
        for bad in ["", "0a:58:00:01:fe", "0a:58:00:01:fe:02:03", "0a:58:00:01:fe:+2", "zz:58:00:01:fe:02"] {
            assert_eq!(parse_mac(bad), None, "{bad:?}");
        }
    }
}
