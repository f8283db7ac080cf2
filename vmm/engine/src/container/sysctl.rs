// SPDX-License-Identifier: Apache-2.0
//! `--sysctl`: kernel parameters, all of them, since the kernel is the container's own. The agent
//! sets them, and knows which there are.

use std::collections::HashMap;

use super::ContainerError;

/// `NAME=VALUE` each; the last one of a name counts. Docker's own two (low ports and ping without
/// root) are the agent's.
pub fn parse(given: &[String]) -> Result<HashMap<String, String>, ContainerError> {
    given
        .iter()
        .map(|text| split(text).ok_or_else(|| ContainerError::Sysctl(text.clone())))
        .collect()
}

/// A name may be written with slashes.
fn split(text: &str) -> Option<(String, String)> {
    let (name, value) = text.split_once('=')?;
    let name = name.replace('/', ".");
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let named = name.split('.').count() > 1 && name.split('.').all(|part| !part.is_empty());
    let clean = !value.contains(char::is_control) && value.len() < 256;
    (named && name.chars().all(plain) && clean).then(|| (name, value.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_all(given: &[&str]) -> Result<HashMap<String, String>, ContainerError> {
        parse(&given.iter().map(ToString::to_string).collect::<Vec<_>>())
    }

    #[test]
    fn the_last_of_a_name_counts() {
        let all = parse_all(&[
            "fs/mqueue/msg_max=1",
            "vm.x=a=\"b\" c",
            "fs.mqueue.msg_max=2",
        ]);
        let wanted = [("fs.mqueue.msg_max", "2"), ("vm.x", "a=\"b\" c")];
        let wanted = wanted.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(all.unwrap(), wanted.into());
    }

    #[test]
    fn what_is_no_parameter_is_refused() {
        for bad in [
            "",
            "a",
            "a=1",
            "a.b",
            "a..b=1",
            "a.b c.d=1",
            ".a=1",
            "a.b=\n",
        ] {
            assert!(parse_all(&[bad]).is_err(), "{bad}");
        }
    }
}
