// SPDX-License-Identifier: Apache-2.0
//! `--mount`: the long way to say `-v` and `--tmpfs`.

use std::path::Path;

use super::volume::{Tmpfs, Volume, VolumeError, check_name, existing, mount_point};
use crate::units::parse_size;

#[derive(Debug, PartialEq, Eq)]
pub enum Mounted {
    Volume(Volume),
    Tmpfs(Tmpfs),
}

/// What the fields say, before the type says which of them make sense.
#[derive(Default)]
struct Fields<'a> {
    kind: Option<&'a str>,
    source: &'a str,
    target: Option<&'a str>,
    readonly: bool,
    nocopy: bool,
    size: Option<(String, u64)>,
    tmpfs: Vec<String>,
}

/// `KEY[=VALUE],…`; `cwd` is what a source that begins with a dot is relative to.
pub fn parse(spec: &str, cwd: &Path) -> Result<Mounted, VolumeError> {
    let refuse = |reason: String| VolumeError::Mount {
        spec: spec.to_owned(),
        reason,
    };
    let fields = Fields::parse(spec).map_err(refuse)?;
    let target = fields
        .target
        .ok_or_else(|| refuse("target is required".to_owned()))?;
    let target = mount_point(target).map_err(refuse)?;
    let kind = fields.kind.unwrap_or("volume");
    let is_strange = match kind {
        "bind" => fields.nocopy || fields.size.is_some() || !fields.tmpfs.is_empty(),
        "volume" => !fields.tmpfs.is_empty(),
        "tmpfs" => fields.nocopy || fields.size.is_some() || !fields.source.is_empty(),
        _ => return Err(refuse(format!("mount type unknown: '{kind}'"))),
    };
    if is_strange {
        return Err(refuse(format!(
            "cannot mix options of several types: {kind}"
        )));
    }
    if kind == "tmpfs" {
        let mut options: Vec<String> = ["noexec", "nosuid", "nodev"].map(str::to_owned).into();
        options.extend(fields.readonly.then(|| "ro".to_owned()));
        options.extend(fields.tmpfs);
        return Ok(Mounted::Tmpfs(Tmpfs { target, options }));
    }
    let volume = Volume {
        target,
        readonly: fields.readonly,
        nocopy: fields.nocopy,
        size: fields.size,
        ..Volume::default()
    };
    if kind == "bind" {
        if fields.source.is_empty() {
            return Err(refuse("source is required for a bind mount".to_owned()));
        }
        let source = existing(&cwd.join(fields.source))?;
        return Ok(Mounted::Volume(Volume { source, ..volume }));
    }
    if !fields.source.is_empty() {
        check_name(fields.source)?;
    }
    Ok(Mounted::Volume(Volume {
        name: Some(fields.source.to_owned()),
        anonymous: fields.source.is_empty(),
        ..volume
    }))
}

impl<'a> Fields<'a> {
    fn parse(spec: &'a str) -> Result<Self, String> {
        let mut fields = Self::default();
        for field in spec.split(',') {
            let (key, value) = match field.split_once('=') {
                Some((key, value)) => (key, Some(value)),
                None => (field, None),
            };
            let needed =
                || value.ok_or_else(|| format!("invalid field '{field}' must be a key=value pair"));
            match key.to_ascii_lowercase().as_str() {
                "type" => fields.kind = Some(needed()?),
                "source" | "src" => fields.source = needed()?,
                "target" | "dst" | "destination" => fields.target = Some(needed()?),
                "readonly" | "ro" => fields.readonly = boolean(field, value)?,
                "volume-nocopy" => fields.nocopy = boolean(field, value)?,
                "volume-driver" if value == Some("local") => {}
                "volume-opt" => match needed()?.split_once('=') {
                    Some(("size", size)) => {
                        let bytes = parse_size(size).map_err(|e| e.to_string())?;
                        fields.size = Some((size.to_owned(), bytes));
                    }
                    _ => return Err(format!("'{field}': only size=SIZE is known")),
                },
                "tmpfs-size" => {
                    let size = parse_size(needed()?).map_err(|e| e.to_string())?;
                    fields.tmpfs.push(format!("size={size}"));
                }
                "tmpfs-mode" => {
                    let mode = needed()?;
                    if u32::from_str_radix(mode, 8).is_err() {
                        return Err(format!("invalid value for {key}: {mode}"));
                    }
                    fields.tmpfs.push(format!("mode={mode}"));
                }
                // Private is what it always is; hints of consistency mean nothing here.
                "bind-propagation" if matches!(value, Some("private" | "rprivate")) => {}
                "consistency" => {}
                _ => return Err(format!("unexpected key '{key}' in '{field}'")),
            }
        }
        Ok(fields)
    }
}

fn boolean(field: &str, value: Option<&str>) -> Result<bool, String> {
    match value {
        None | Some("true" | "1") => Ok(true),
        Some("false" | "0") => Ok(false),
        Some(_) => Err(format!("invalid value in '{field}'")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn volume(spec: &str) -> Volume {
        match parse(spec, Path::new("/usr")).unwrap() {
            Mounted::Volume(volume) => volume,
            Mounted::Tmpfs(_) => panic!("a tmpfs"),
        }
    }

    #[test]
    fn the_three_types() {
        let data = volume("source=data,target=/d,readonly,volume-nocopy=true");
        assert_eq!(data.name.as_deref(), Some("data"));
        assert!(data.readonly && data.nocopy);
        assert!(volume("dst=/d").anonymous);
        let small = volume("src=data,dst=/d,volume-driver=local,volume-opt=size=1m");
        assert_eq!(small.size, Some(("1m".to_owned(), 1 << 20)));
        let bind = volume("type=bind,src=.,dst=/d,ro=false");
        assert_eq!(
            (bind.source.as_path(), bind.readonly),
            (Path::new("/usr"), false)
        );
        let spec = "type=tmpfs,dst=/t,tmpfs-size=1m,tmpfs-mode=1770";
        let Mounted::Tmpfs(tmpfs) = parse(spec, Path::new("/")).unwrap() else {
            panic!("a volume")
        };
        assert_eq!(tmpfs.options[3..], ["size=1048576", "mode=1770"]);
    }

    #[test]
    fn mistakes() {
        for (spec, words) in [
            ("type=volume", "target is required"),
            ("type=nosuch,dst=/a", "mount type unknown: 'nosuch'"),
            ("type=bind,dst=/a", "source is required"),
            ("dst=/a,foo=1", "unexpected key 'foo'"),
            ("dst=/a,ro=x", "invalid value in 'ro=x'"),
            ("dst=a", "must be absolute"),
            ("type=bind,src=/nonexistent,dst=/a", "does not exist"),
            ("type=bind,src=/,dst=/a,volume-nocopy", "cannot mix"),
            ("type=tmpfs,dst=/a,volume-opt=size=1m", "cannot mix"),
            ("dst=/a,volume-opt=type=nfs", "only size=SIZE is known"),
            ("dst=/a,volume-driver=nfs", "unexpected key 'volume-driver'"),
        ] {
            let said = parse(spec, Path::new("/")).unwrap_err().to_string();
            assert!(said.contains(words), "{said}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_answered(spec in "[a-z=,/-]{0,24}") {
            let _ = parse(&spec, Path::new("/"));
        }
    }
}
