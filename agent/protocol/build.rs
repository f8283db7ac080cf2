// SPDX-License-Identifier: Apache-2.0
//! Turns `proto/agent.proto` into message types, client and server, with pure Rust parsers: no
//! `protoc` needed.

use std::path::Path;
use std::{env, fs, io};

use ttrpc_codegen::{Codegen, Customize, ProtobufCustomize};

fn main() -> io::Result<()> {
    println!("cargo::rerun-if-changed=proto/agent.proto");
    Codegen::new()
        .input("proto/agent.proto")
        .include("proto")
        .rust_protobuf()
        // Without reflection: descriptors would be a good part of a small binary.
        .rust_protobuf_customize(ProtobufCustomize::default().lite_runtime(true))
        .customize(Customize::default())
        .run()?;

    // `include!` refuses the generated files' inner attributes; a module with a path takes them.
    let out = env::var_os("OUT_DIR").ok_or_else(|| io::Error::other("OUT_DIR is not set"))?;
    let out = Path::new(&out);
    let modules: String = ["agent", "agent_ttrpc"]
        .map(|name| {
            format!(
                "#[path = {:?}]\npub mod {name};\n",
                out.join(format!("{name}.rs"))
            )
        })
        .concat();
    fs::write(out.join("modules.rs"), modules)
}
