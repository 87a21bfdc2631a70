//! Types and traits of the world `bulkhead:tool/tool`, made from `wit/tool.wit`.

#![allow(missing_docs, unreachable_pub, reason = "generated; the WIT has the documentation")]

wasmtime::component::bindgen!({
    path: "../../wit",
    world: "tool",
    imports: {
        "bulkhead:tool/cancellation": trappable,
        default: async | trappable,
    },
    exports: { default: async },
});
