//! A seccomp profile as written: the JSON form that Docker and the OCI runtime spec share.
//!
//! Docker's form has more than the OCI's (`archMap`, `includes`, `excludes`, several names a rule); both are read.
//! Unknown fields are refused: a filter that is not understood whole must not be half applied.

use serde::{Deserialize, Serialize};

/// The profile.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Profile {
    /// What happens to a system call that no rule names.
    pub default_action: Action,
    /// Error number of that, where it is an error; EPERM when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_errno_ret: Option<u32>,
    /// Docker's form: each machine with the older ones whose programs it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arch_map: Option<Vec<ArchMap>>,
    /// The OCI's form: every architecture whose system calls are judged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub architectures: Option<Vec<String>>,
    /// Flags of seccomp(2).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flags: Option<Vec<String>>,
    /// Socket of an agent that decides; refused by name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listener_path: Option<String>,
    /// What the agent is told; refused by name with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listener_metadata: Option<String>,
    /// The rules.
    #[serde(default, deserialize_with = "null_is_empty", skip_serializing_if = "Vec::is_empty")]
    pub syscalls: Vec<Rule>,
}

/// A machine and the older ones whose programs it runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ArchMap {
    /// The machine.
    pub architecture: String,
    /// The older ones.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub sub_architectures: Vec<String>,
}

/// What happens to some system calls.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Rule {
    /// The OCI's form, and Docker's.
    #[serde(default, deserialize_with = "null_is_empty", skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<String>,
    /// Docker's first form: one name.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// What happens.
    pub action: Action,
    /// Error number, where it is an error; EPERM when absent. The value for a tracer, where one is asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub errno_ret: Option<u32>,
    /// Conditions on arguments; all must hold.
    #[serde(default, deserialize_with = "null_is_empty", skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<Argument>,
    /// For people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub comment: String,
    /// The rule counts only where all of this holds.
    #[serde(default, deserialize_with = "null_is_empty", skip_serializing_if = "Filter::is_empty")]
    pub includes: Filter,
    /// The rule does not count where any of this holds.
    #[serde(default, deserialize_with = "null_is_empty", skip_serializing_if = "Filter::is_empty")]
    pub excludes: Filter,
}

/// Where a rule counts.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Filter {
    /// Capabilities in the bounding set.
    #[serde(default, deserialize_with = "null_is_empty", skip_serializing_if = "Vec::is_empty")]
    pub caps: Vec<String>,
    /// Machines, in Go's spelling (`amd64`).
    #[serde(default, deserialize_with = "null_is_empty", skip_serializing_if = "Vec::is_empty")]
    pub arches: Vec<String>,
    /// Oldest kernel, `4.8`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_kernel: Option<String>,
}

impl Filter {
    fn is_empty(&self) -> bool {
        *self == Filter::default()
    }
}

/// A condition on one argument.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Argument {
    /// Which argument, 0 to 5.
    pub index: u32,
    /// What it is compared with; the mask of a masked comparison.
    pub value: u64,
    /// What a masked comparison must give; bits outside the mask are not asked about.
    #[serde(default)]
    pub value_two: u64,
    /// How.
    pub op: Compare,
}

/// How an argument is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Compare {
    /// `!=`
    #[serde(rename = "SCMP_CMP_NE")]
    NotEqual,
    /// `<`
    #[serde(rename = "SCMP_CMP_LT")]
    Less,
    /// `<=`
    #[serde(rename = "SCMP_CMP_LE")]
    LessOrEqual,
    /// `==`
    #[serde(rename = "SCMP_CMP_EQ")]
    Equal,
    /// `>=`
    #[serde(rename = "SCMP_CMP_GE")]
    GreaterOrEqual,
    /// `>`
    #[serde(rename = "SCMP_CMP_GT")]
    Greater,
    /// `argument & value == value_two & value`
    #[serde(rename = "SCMP_CMP_MASKED_EQ")]
    MaskedEqual,
}

/// What happens to a system call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Action {
    /// The thread dies.
    #[serde(rename = "SCMP_ACT_KILL", alias = "SCMP_ACT_KILL_THREAD")]
    KillThread,
    /// The process dies.
    #[serde(rename = "SCMP_ACT_KILL_PROCESS")]
    KillProcess,
    /// SIGSYS.
    #[serde(rename = "SCMP_ACT_TRAP")]
    Trap,
    /// It fails with an error number.
    #[serde(rename = "SCMP_ACT_ERRNO")]
    Errno,
    /// A tracer decides.
    #[serde(rename = "SCMP_ACT_TRACE")]
    Trace,
    /// It is done, and the kernel logs it.
    #[serde(rename = "SCMP_ACT_LOG")]
    Log,
    /// It is done.
    #[serde(rename = "SCMP_ACT_ALLOW")]
    Allow,
    /// An agent decides; refused by name.
    #[serde(rename = "SCMP_ACT_NOTIFY")]
    Notify,
}

/// Go writes an empty list as `null`.
fn null_is_empty<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_are_read_and_nonsense_is_refused() {
        let docker = r#"{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":1,
            "archMap":[{"architecture":"SCMP_ARCH_X86_64","subArchitectures":null}],
            "syscalls":[{"names":["read"],"action":"SCMP_ACT_ALLOW","args":null,"comment":"","includes":{},
            "excludes":{"caps":["CAP_SYS_ADMIN"]}}]}"#;
        let profile: Profile = serde_json::from_str(docker).unwrap();
        assert_eq!(profile.syscalls[0].excludes.caps, ["CAP_SYS_ADMIN"]);
        let oci = r#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86_64"],
            "syscalls":[{"names":["chmod"],"action":"SCMP_ACT_ERRNO","errnoRet":13}]}"#;
        assert!(serde_json::from_str::<Profile>(oci).is_ok());
        for wrong in ["{}", r#"{"defaultAction":"ALLOW"}"#, r#"{"defaultAction":"SCMP_ACT_ALLOW","sycalls":[]}"#] {
            assert!(serde_json::from_str::<Profile>(wrong).is_err(), "{wrong}");
        }
    }
}
