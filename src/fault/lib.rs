//! Fault points: the steps of every multi-step act, by name, and what a test makes happen at them.
//!
//! A room lists its steps in an enum ([`steps!`]), and each act passes them through [`Steps`], so a test (or a person
//! hunting a bug) can make any *named* step fail, or end the daemon there as a crash would. Nobody can add a step that
//! tests cannot see: they match on the enum.

mod faults;
mod steps;

pub use faults::{Faults, InvalidFault};
pub use steps::{MadeToFail, Step, Steps};

/// Makes the enum of a room's steps.
#[macro_export]
macro_rules! steps {
    ($(#[$about:meta])* $seen:vis enum $Step:ident { $($(#[$doc:meta])* $name:ident = $text:literal,)* }) => {
        $(#[$about])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        $seen enum $Step { $($(#[$doc])* $name,)* }

        impl $Step {
            /// Every step there is.
            $seen const ALL: &'static [$Step] = &[$($Step::$name,)*];

            /// Its name, as in `run.attach`.
            $seen fn name(self) -> &'static str {
                match self { $($Step::$name => $text,)* }
            }
        }

        impl $crate::Step for $Step {
            fn name(self) -> &'static str {
                $Step::name(self)
            }
        }

        impl std::fmt::Display for $Step {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.name())
            }
        }
    };
}
