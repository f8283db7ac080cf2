// SPDX-License-Identifier: Apache-2.0
//! Docker's `--user` and `--group-add` against the texts of a container's `/etc/passwd` and
//! `/etc/group`. The agent asks for who a process is to be, the engine for whose a volume's files are.
//!
//! The two texts are the image's, or what a running container made of them: malformed lines are
//! skipped, as passwd(5) and group(5) have them.

#![deny(unsafe_code)]

/// No more than this is to be read of either file.
pub const MAX_FILE: u64 = 1 << 20;
/// The greatest id that Docker takes.
const MAX_ID: u32 = i32::MAX.cast_unsigned();
/// `NGROUPS_MAX`.
const MAX_GROUPS: usize = 65_536;

/// Why a user can't be resolved. The words are Docker's.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum UserError {
    #[error("unable to find user {name}: no matching entries in passwd file")]
    NoUser { name: String },
    #[error("unable to find group {name}: no matching entries in group file")]
    NoGroup { name: String },
    #[error("uids and gids must be in range 0-{MAX_ID}")]
    Range,
}

/// Who a process runs as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    pub uid: u32,
    pub gid: u32,
    /// Supplementary groups: the primary first, then those the group file or the request gives.
    pub additional_gids: Vec<u32>,
    pub home: String,
}

struct Passwd<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

struct Group<'a> {
    name: &'a str,
    gid: u32,
    members: &'a str,
}

/// Resolves `user` (`[name|uid][:name|gid]`, empty is root) and `group_add`.
///
/// # Errors
/// A name without an entry, or a number out of range.
pub fn resolve(
    passwd: &str,
    group: &str,
    user: &str,
    group_add: &[String],
) -> Result<User, UserError> {
    let (user_arg, group_arg) = user.split_once(':').unwrap_or((user, ""));
    let mut found = User {
        uid: 0,
        gid: 0,
        additional_gids: Vec::new(),
        home: "/".into(),
    };
    let number = user_arg.parse::<i64>().ok();
    let entry = passwd_entries(passwd).find(|entry| match number {
        _ if user_arg.is_empty() => entry.uid == 0,
        // A number is always an id, never a name of digits.
        Some(number) => i64::from(entry.uid) == number,
        None => entry.name == user_arg,
    });
    let mut user_name = None;
    if let Some(entry) = entry {
        (found.uid, found.gid) = (entry.uid, entry.gid);
        found.home = entry.home.into();
        user_name = Some(entry.name);
    } else if !user_arg.is_empty() {
        let number = number.ok_or_else(|| UserError::NoUser {
            name: user_arg.into(),
        })?;
        found.uid = in_range(number)?;
    }
    let mut groups = Vec::new();
    if !group_arg.is_empty() {
        found.gid = group_id(group, group_arg)?;
    } else if let Some(name) = user_name {
        groups.extend(
            group_entries(group)
                .filter(|entry| entry.members.split(',').any(|member| member == name))
                .map(|entry| entry.gid),
        );
    }
    for name in group_add {
        groups.push(group_id(group, name)?);
    }
    for gid in std::iter::once(found.gid).chain(groups).take(MAX_GROUPS) {
        if !found.additional_gids.contains(&gid) {
            found.additional_gids.push(gid);
        }
    }
    Ok(found)
}

fn group_id(group: &str, wanted: &str) -> Result<u32, UserError> {
    let number = wanted.parse::<i64>().ok();
    let entry = group_entries(group).find(|entry| match number {
        Some(number) => i64::from(entry.gid) == number,
        None => entry.name == wanted,
    });
    match (entry, number) {
        (Some(entry), _) => Ok(entry.gid),
        (None, Some(number)) => in_range(number),
        (None, None) => Err(UserError::NoGroup {
            name: wanted.into(),
        }),
    }
}

fn in_range(id: i64) -> Result<u32, UserError> {
    u32::try_from(id)
        .ok()
        .filter(|id| *id <= MAX_ID)
        .ok_or(UserError::Range)
}

fn passwd_entries(file: &str) -> impl Iterator<Item = Passwd<'_>> {
    file.lines().filter_map(|line| {
        let mut fields = line.trim().split(':');
        let name = fields
            .next()
            .filter(|name| !name.is_empty() && !name.starts_with('#'))?;
        let _password = fields.next()?;
        let uid = fields.next()?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        let _comment = fields.next().unwrap_or("");
        let home = fields.next().filter(|home| !home.is_empty()).unwrap_or("/");
        Some(Passwd {
            name,
            uid,
            gid,
            home,
        })
    })
}

fn group_entries(file: &str) -> impl Iterator<Item = Group<'_>> {
    file.lines().filter_map(|line| {
        let mut fields = line.trim().split(':');
        let name = fields
            .next()
            .filter(|name| !name.is_empty() && !name.starts_with('#'))?;
        let _password = fields.next()?;
        let gid = fields.next()?.parse().ok()?;
        Some(Group {
            name,
            gid,
            members: fields.next().unwrap_or(""),
        })
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PASSWD: &str = "\
# comment:x:9:9::/:
root:x:0:0:root:/root:/bin/sh
broken line
daemon:x:1:1
bad:x:notanumber:2::/:/bin/sh
alice:x:1000:1000:Alice,,,:/home/alice:/bin/sh
1234:x:77:77::/digits:/bin/sh
huge:x:99999999999:1::/:
";
    const GROUP: &str = "\
root:x:0:
wheel:x:10:root,alice
alice:x:1000:
audio:x:29:alice,bob
nobody
77:x:5:
";

    fn run(user: &str, add: &[&str]) -> Result<User, UserError> {
        let add: Vec<String> = add.iter().map(ToString::to_string).collect();
        resolve(PASSWD, GROUP, user, &add)
    }

    fn is(uid: u32, gid: u32, additional_gids: &[u32], home: &str) -> Result<User, UserError> {
        Ok(User {
            uid,
            gid,
            additional_gids: additional_gids.into(),
            home: home.into(),
        })
    }

    #[test]
    fn docker_s_forms() {
        assert_eq!(run("", &[]), is(0, 0, &[0, 10], "/root"));
        assert_eq!(run("0", &[]), is(0, 0, &[0, 10], "/root"));
        assert_eq!(
            run("alice", &[]),
            is(1000, 1000, &[1000, 10, 29], "/home/alice")
        );
        assert_eq!(
            run("1000", &[]),
            is(1000, 1000, &[1000, 10, 29], "/home/alice")
        );
        assert_eq!(run("alice:audio", &[]), is(1000, 29, &[29], "/home/alice"));
        assert_eq!(
            run("alice:12345", &[]),
            is(1000, 12345, &[12345], "/home/alice")
        );
        assert_eq!(run("4242", &[]), is(4242, 0, &[0], "/"));
        assert_eq!(run("4242:4343", &[]), is(4242, 4343, &[4343], "/"));
        assert_eq!(run(":audio", &[]), is(0, 29, &[29], "/root"));
        assert_eq!(run("daemon", &[]), is(1, 1, &[1], "/"));
        assert_eq!(run("1234", &[]), is(1234, 0, &[0], "/"));
        assert_eq!(
            run("0", &["audio", "4444", "0"]),
            is(0, 0, &[0, 10, 29, 4444], "/root")
        );
    }

    #[test]
    fn docker_s_words() {
        let message = |user: &str, add: &[&str]| run(user, add).unwrap_err().to_string();
        assert_eq!(
            message("nobody", &[]),
            "unable to find user nobody: no matching entries in passwd file"
        );
        assert_eq!(
            message("root:none", &[]),
            "unable to find group none: no matching entries in group file"
        );
        assert_eq!(
            message("", &["none"]),
            "unable to find group none: no matching entries in group file"
        );
        assert_eq!(
            message("-1", &[]),
            "uids and gids must be in range 0-2147483647"
        );
        assert_eq!(
            message("0:2147483648", &[]),
            "uids and gids must be in range 0-2147483647"
        );
        assert_eq!(
            message("huge", &[]),
            "unable to find user huge: no matching entries in passwd file"
        );
    }

    proptest! {
        #[test]
        fn any_files_and_any_request(passwd: String, group: String, user: String, add: Vec<String>) {
            let _ = resolve(&passwd, &group, &user, &add);
        }

        #[test]
        fn lines_of_colons(
            passwd in "([a-z0-9#]{0,3}(:[a-z0-9]{0,4}){0,7}\n){0,20}",
            user in "[a-z0-9]{0,2}(:[a-z0-9]{0,2})?",
        ) {
            if let Ok(found) = resolve(&passwd, &passwd, &user, &[]) {
                prop_assert!(found.additional_gids.contains(&found.gid));
            }
        }
    }
}
