//! Stop signals: the contract counts names in a list, the kernel has numbers.

use api::cri::v1;
use model::Signal;

use super::text;
use crate::{error::Error, field::Field};

/// The signal that a request names; `None` when it leaves the choice to the image.
pub(crate) fn stop_signal(field: &Field<'_>, number: i32) -> Result<Option<Signal>, Error> {
    let name: v1::Signal = text::known(field, number, "one of the contract's signals, 0 to 65")?;
    Ok(signal(name))
}

/// The contract's name for a signal; the default where it has none (32 and 33 are the C library's own).
pub(crate) fn to_wire(wanted: Signal) -> v1::Signal {
    // In order: of two names of one number (ABRT and IOT) the first is the common one.
    (1..=65).filter_map(|n| v1::Signal::try_from(n).ok()).find(|name| signal(*name) == Some(wanted)).unwrap_or_default()
}

fn signal(name: v1::Signal) -> Option<Signal> {
    // `SIGNAL_SIGRTMAXMINUS3` and the like; the first name alone, `SIGNAL_RUNTIME_DEFAULT`, is no signal.
    let text = name.as_str_name().strip_prefix("SIGNAL_")?;
    text.replace("MINUS", "-").replace("PLUS", "+").parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_of_the_contract_but_the_default_is_a_signal_and_comes_back() {
        for number in 1..=65 {
            let name = v1::Signal::try_from(number).unwrap();
            let signal = signal(name).unwrap_or_else(|| panic!("{name:?}"));
            let back = to_wire(signal);
            assert_eq!(super::signal(back), Some(signal), "{name:?}");
        }
        assert_eq!(signal(v1::Signal::Sigrtmaxminus14).map(Signal::number), Some(50));
        assert_eq!(signal(v1::Signal::Sigrtminplus3).map(Signal::number), Some(37));
        assert_eq!(to_wire(Signal::TERM), v1::Signal::Sigterm);
        assert_eq!(signal(v1::Signal::RuntimeDefault), None);
    }

    #[test]
    fn an_unknown_number_is_refused() {
        let field = Field::root("config");
        assert!(stop_signal(&field, 66).is_err());
        assert!(stop_signal(&field, -1).is_err());
        assert_eq!(stop_signal(&field, 0).unwrap(), None);
    }
}
