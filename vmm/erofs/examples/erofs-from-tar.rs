// SPDX-License-Identifier: Apache-2.0
//! `erofs-from-tar IMAGE LAYER.tar…`: one EROFS image from uncompressed layers, bottom first.

use std::error::Error;
use std::fs::File;

use walnut_erofs::{Builder, Limits};

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args_os().skip(1);
    let image = args
        .next()
        .ok_or("usage: erofs-from-tar IMAGE LAYER.tar...")?;
    let mut builder = Builder::new(File::create(image)?, Limits::default());
    for layer in args {
        builder.add_layer(File::open(layer)?)?;
    }
    builder.finish([0; 16])?;
    Ok(())
}
