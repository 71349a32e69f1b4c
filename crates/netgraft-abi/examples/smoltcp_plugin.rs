//! The built-in stack as an object that is loaded at run time: `libsmoltcp_plugin.so`.

netgraft_abi::export_stack!("smoltcp-plugin", netgraft_smoltcp::factory());
