//! The service proxy: services and endpoints become one nftables state (pure), applied as differences.
