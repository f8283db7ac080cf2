// SPDX-License-Identifier: Apache-2.0
//! What a machine runs: `os/architecture[/variant]`, in Go's names.

use std::fmt;
use std::str::FromStr;

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("\"{0}\" is an invalid platform specifier: it is not OS/ARCH[/VARIANT]")]
pub struct PlatformError(String);

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Platform {
    pub os: String,
    pub architecture: String,
    pub variant: Option<String>,
}

impl Platform {
    /// What our guests are.
    pub fn guest() -> Self {
        Platform {
            os: "linux".into(),
            architecture: "amd64".into(),
            variant: None,
        }
    }

    /// What was asked for; else what our guests are.
    pub fn wanted(text: Option<&str>) -> Result<Self, PlatformError> {
        text.map_or_else(|| Ok(Self::guest()), str::parse)
    }

    /// Whether an image for `offered` runs here. A variant is only compared where both name one.
    pub(super) fn accepts(&self, offered: &Platform) -> bool {
        let variants_differ = match (&self.variant, &offered.variant) {
            (Some(wanted), Some(offered)) => wanted != offered,
            _ => false,
        };
        self.os == offered.os && self.architecture == offered.architecture && !variants_differ
    }
}

impl From<&oci_spec::image::Platform> for Platform {
    fn from(platform: &oci_spec::image::Platform) -> Self {
        Platform {
            os: platform.os().to_string(),
            architecture: platform.architecture().to_string(),
            variant: platform
                .variant()
                .clone()
                .filter(|variant| !variant.is_empty()),
        }
    }
}

impl From<&oci_spec::image::ImageConfiguration> for Platform {
    fn from(config: &oci_spec::image::ImageConfiguration) -> Self {
        Platform {
            os: config.os().to_string(),
            architecture: config.architecture().to_string(),
            variant: config
                .variant()
                .clone()
                .filter(|variant| !variant.is_empty()),
        }
    }
}

impl FromStr for Platform {
    type Err = PlatformError;

    fn from_str(text: &str) -> Result<Self, PlatformError> {
        let parts: Vec<&str> = text.split('/').collect();
        let well_formed = |part: &&str| {
            !part.is_empty()
                && part
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
        };
        if !parts.iter().all(well_formed) {
            return Err(PlatformError(text.into()));
        }
        let lower = |part: &str| part.to_ascii_lowercase();
        match parts[..] {
            [os, architecture] => Ok(Platform {
                os: lower(os),
                architecture: go_name(architecture),
                variant: None,
            }),
            [os, architecture, variant] => Ok(Platform {
                os: lower(os),
                architecture: go_name(architecture),
                variant: Some(lower(variant)),
            }),
            _ => Err(PlatformError(text.into())),
        }
    }
}

/// Docker takes the kernel's names too.
fn go_name(architecture: &str) -> String {
    match architecture.to_ascii_lowercase().as_str() {
        "x86_64" | "x86-64" => "amd64".into(),
        "aarch64" => "arm64".into(),
        other => other.into(),
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match &self.variant {
            Some(variant) => write!(f, "/{variant}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_back() {
        for text in ["linux/amd64", "linux/arm/v7"] {
            assert_eq!(text.parse::<Platform>().unwrap().to_string(), text);
        }
        assert_eq!("Linux/x86_64".parse(), Ok(Platform::guest()));
        for bad in ["", "linux", "linux/", "/amd64", "a/b/c/d", "linux/amd 64"] {
            assert!(bad.parse::<Platform>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_variant_matters_where_both_have_one() {
        let ours = Platform::guest();
        assert!(ours.accepts(&"linux/amd64/v2".parse().unwrap()));
        assert!(!ours.accepts(&"linux/arm64".parse().unwrap()));
        assert!(!ours.accepts(&"windows/amd64".parse().unwrap()));
        let v7: Platform = "linux/arm/v7".parse().unwrap();
        assert!(!v7.accepts(&"linux/arm/v6".parse().unwrap()));
    }
}
