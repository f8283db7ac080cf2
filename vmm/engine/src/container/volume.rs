// SPDX-License-Identifier: Apache-2.0
//! `-v` and `--tmpfs`: what is mounted where in the container.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::mount::{self, Mounted};

/// Of a file (`NAME_MAX`).
const MAX_NAME: usize = 255;

#[derive(Debug, Error)]
pub enum VolumeError {
    #[error("invalid volume specification: '{spec}': {reason}")]
    Spec { spec: String, reason: String },
    #[error("invalid mount config for type \"bind\": bind source path does not exist: {0}")]
    Missing(PathBuf),
    #[error("look at volume source {path}")]
    Inspect { path: PathBuf, source: io::Error },
    #[error(
        "\"{0}\" includes invalid characters for a local volume name, only \
         \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed. If you intended to pass a host directory, use \
         absolute path"
    )]
    Name(String),
    #[error("invalid argument \"{spec}\" for \"--mount\" flag: {reason}")]
    Mount { spec: String, reason: String },
    #[error("Duplicate mount point: {0}")]
    Duplicate(PathBuf),
    #[error("invalid tmpfs specification: '{spec}': {reason}")]
    Tmpfs { spec: String, reason: String },
}

/// What of elsewhere the container sees, and where: a directory or a file of the host, or a named
/// volume.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
pub struct Volume {
    /// A volume's; empty for one that gets a random name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Made for this container alone.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub anonymous: bool,
    /// On the host; of a volume, its disk image.
    pub source: PathBuf,
    pub target: PathBuf,
    pub readonly: bool,
    /// A new volume is not given what the image has at its place.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub nocopy: bool,
    /// How large it may grow, if it is made for this container: `size=` as it was given, and bytes.
    #[serde(skip)]
    pub size: Option<(String, u64)>,
}

#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
pub struct Tmpfs {
    pub target: PathBuf,
    /// Options of mount(8), as given.
    pub options: Vec<String>,
}

impl Volume {
    /// As lists show it.
    pub fn shown(&self, whole: bool) -> String {
        let text = match &self.name {
            Some(name) => name.clone(),
            None => self.source.display().to_string(),
        };
        if whole || text.chars().count() <= 15 {
            return text;
        }
        text.chars().take(14).chain(['…']).collect()
    }

    pub fn is_named(&self) -> bool {
        self.name.is_some()
    }

    /// `[SOURCE:]TARGET[:OPTIONS]`; `cwd` is what a source that begins with a dot is relative to.
    pub fn parse(spec: &str, cwd: &Path) -> Result<Self, VolumeError> {
        let refuse = |reason: String| VolumeError::Spec {
            spec: spec.to_owned(),
            reason,
        };
        let parts: Vec<&str> = spec.split(':').collect();
        let (source, target, options) = match parts[..] {
            [source, target] => (source, target, ""),
            [source, target, options] => (source, target, options),
            [target] => {
                return Ok(Self {
                    name: Some(String::new()),
                    anonymous: true,
                    target: mount_point(target).map_err(refuse)?,
                    ..Self::default()
                });
            }
            _ => return Err(refuse("too many colons".to_owned())),
        };
        if source.is_empty() || target.is_empty() {
            return Err(refuse("empty section between colons".to_owned()));
        }
        let target = mount_point(target).map_err(refuse)?;
        let (readonly, nocopy) = parse_options(options).map_err(refuse)?;
        let is_path = source.starts_with(['/', '.']);
        let volume = Self {
            target,
            readonly,
            nocopy,
            ..Self::default()
        };
        if is_path {
            let source = existing(&cwd.join(source))?;
            return Ok(Self { source, ..volume });
        }
        check_name(source)?;
        Ok(Self {
            name: Some(source.to_owned()),
            ..volume
        })
    }
}

/// Docker's rule for a volume's name.
pub fn check_name(name: &str) -> Result<(), VolumeError> {
    let mut bytes = name.bytes();
    let first = bytes.next().is_some_and(|b| b.is_ascii_alphanumeric());
    let rest = bytes.len() > 0
        && name.len() <= MAX_NAME
        && bytes.all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'));
    match first && rest && name != "lock" {
        true => Ok(()),
        false => Err(VolumeError::Name(name.to_owned())),
    }
}

/// Absolute, without `.` and `..`, not the root itself.
pub(super) fn mount_point(text: &str) -> Result<PathBuf, String> {
    if !text.starts_with('/') {
        return Err(format!(
            "invalid mount path: '{text}' mount path must be absolute"
        ));
    }
    let mut clean = PathBuf::from("/");
    for component in Path::new(text).components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => {
                clean.pop();
            }
            _ => {}
        }
    }
    if clean == Path::new("/") {
        return Err("invalid specification: destination can't be '/'".to_owned());
    }
    Ok(clean)
}

/// Whether it is read-only, and whether a new volume is left empty.
fn parse_options(options: &str) -> Result<(bool, bool), String> {
    let (mut readonly, mut nocopy) = (false, false);
    for option in options.split(',').filter(|o| !o.is_empty()) {
        match option {
            "ro" => readonly = true,
            "rw" => readonly = false,
            "nocopy" => nocopy = true,
            // SELinux labels and consistency hints mean nothing here; private is what it always is.
            "z" | "Z" | "cached" | "delegated" | "consistent" | "default" | "private"
            | "rprivate" => {}
            _ => return Err(format!("invalid mode: {option}")),
        }
    }
    Ok((readonly, nocopy))
}

pub(super) fn existing(source: &Path) -> Result<PathBuf, VolumeError> {
    match fs::canonicalize(source) {
        Ok(path) => Ok(path),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            Err(VolumeError::Missing(source.to_owned()))
        }
        Err(error) => Err(VolumeError::Inspect {
            path: source.to_owned(),
            source: error,
        }),
    }
}

impl Tmpfs {
    /// `DIR[:OPTIONS]`.
    pub fn parse(spec: &str) -> Result<Self, VolumeError> {
        let (target, options) = spec.split_once(':').unwrap_or((spec, ""));
        let target = mount_point(target).map_err(|reason| VolumeError::Tmpfs {
            spec: spec.to_owned(),
            reason,
        })?;
        // Docker's own, unless one of those given says otherwise.
        let mut all: Vec<String> = ["noexec", "nosuid", "nodev"]
            .map(str::to_owned)
            .into_iter()
            .collect();
        for option in options.split(',').filter(|o| !o.is_empty()) {
            let opposite = match option {
                "exec" => "noexec",
                "suid" => "nosuid",
                "dev" => "nodev",
                _ => option,
            };
            all.retain(|known| known != opposite);
            all.push(option.to_owned());
        }
        Ok(Self {
            target,
            options: all,
        })
    }
}

/// All volumes and tmpfs mounts, none at the same place as another.
pub fn parse_all(
    volumes: &[String],
    tmpfs: &[String],
    mounts: &[String],
    cwd: &Path,
) -> Result<(Vec<Volume>, Vec<Tmpfs>), VolumeError> {
    let mut volumes: Vec<Volume> = volumes
        .iter()
        .map(|spec| Volume::parse(spec, cwd))
        .collect::<Result<_, _>>()?;
    let mut tmpfs: Vec<Tmpfs> = tmpfs
        .iter()
        .map(|spec| Tmpfs::parse(spec))
        .collect::<Result<_, _>>()?;
    for spec in mounts {
        match mount::parse(spec, cwd)? {
            Mounted::Volume(volume) => volumes.push(volume),
            Mounted::Tmpfs(one) => tmpfs.push(one),
        }
    }
    let mut seen = HashSet::new();
    let targets = volumes
        .iter()
        .map(|v| &v.target)
        .chain(tmpfs.iter().map(|t| &t.target));
    for target in targets {
        if !seen.insert(target) {
            return Err(VolumeError::Duplicate(target.clone()));
        }
    }
    Ok((volumes, tmpfs))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(spec: &str) -> Result<Volume, String> {
        Volume::parse(spec, Path::new("/usr")).map_err(|e| e.to_string())
    }

    #[test]
    fn as_docker_users_write_them() {
        let volume = parse("/usr:/work/../src/:ro,z").unwrap();
        assert_eq!(volume.source, Path::new("/usr"));
        assert_eq!(volume.target, Path::new("/src"));
        assert!(volume.readonly);
        let relative = parse("./..:/b").unwrap();
        assert_eq!(
            (relative.source.to_str(), relative.readonly),
            (Some("/"), false)
        );
    }

    #[test]
    fn mistakes_say_what_and_why() {
        for (spec, said) in [
            (
                "/nonexistent/x:/b",
                "invalid mount config for type \"bind\": bind source path does not exist: \
                 /nonexistent/x",
            ),
            (
                "/usr:b",
                "invalid volume specification: '/usr:b': invalid mount path: 'b' mount path must \
                 be absolute",
            ),
            (
                "/usr:/",
                "invalid volume specification: '/usr:/': invalid specification: destination \
                 can't be '/'",
            ),
            (
                "/usr:/b:rx",
                "invalid volume specification: '/usr:/b:rx': invalid mode: rx",
            ),
            (
                ":/b",
                "invalid volume specification: ':/b': empty section between colons",
            ),
        ] {
            assert_eq!(parse(spec), Err(said.to_owned()));
        }
        let said = parse("a b:/b").unwrap_err();
        assert!(said.contains("for a local volume name"), "{said}");
    }

    #[test]
    fn named_and_anonymous() {
        let named = parse("data:/b:ro,nocopy").unwrap();
        assert_eq!(named.name.as_deref(), Some("data"));
        assert!(named.readonly && named.nocopy && !named.anonymous);
        let anonymous = parse("/data").unwrap();
        assert!(anonymous.anonymous && anonymous.is_named());
    }

    #[test]
    fn one_mount_a_place() {
        let both = parse_all(&["/usr:/a".into()], &["/a/".into()], &[], Path::new("/"));
        assert_eq!(both.unwrap_err().to_string(), "Duplicate mount point: /a");
    }

    #[test]
    fn tmpfs_options() {
        let tmpfs = Tmpfs::parse("/run:exec,size=64m").unwrap();
        assert_eq!(tmpfs.options, ["nosuid", "nodev", "exec", "size=64m"]);
        assert!(Tmpfs::parse("run").is_err());
    }

    proptest! {
        #[test]
        fn any_text_is_answered(spec in "[/.:a-z]{0,16}") {
            let _ = parse(&spec);
            let _ = Tmpfs::parse(&spec);
        }
    }
}
