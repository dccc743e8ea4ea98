//! The rules that are there whatever the services are: where packets enter, masquerade, refusals.

use std::net::Ipv4Addr;

use super::chain::load_frontend;
use super::message::{new_chain, new_rule};
use crate::network::Cidr;
use crate::proxy::Config;
use crate::proxy::expression::{Field, Interface, Reg, Rule, Verdict};
use crate::proxy::state::Protocol;
use crate::sys::netlink::Messages;

/// The rules that do not depend on any service.
pub(super) fn skeleton(changes: &mut Messages, config: &Config) {
    let name = &config.table;
    let (prefix, pods, services) = (&config.link_prefix, config.pods, config.services);
    for chain in ["services", "refuse"] {
        new_chain(changes, name, chain, None);
    }
    // Numbers of linux/netfilter_ipv4.h: prerouting 0, input 1, forward 2, output 3, postrouting 4. Refusals run
    // a little before the usual filters, which might drop silently.
    let (dstnat, refusal, srcnat) = (-100, -10, 100);
    new_chain(changes, name, "nat-prerouting", Some(("nat", 0, dstnat)));
    new_chain(changes, name, "nat-output", Some(("nat", 3, dstnat)));
    new_chain(changes, name, "nat-postrouting", Some(("nat", 4, srcnat)));
    new_chain(changes, name, "input", Some(("filter", 1, refusal)));
    new_chain(changes, name, "forward", Some(("filter", 2, refusal)));
    new_chain(changes, name, "output", Some(("filter", 3, refusal)));
    new_chain(changes, name, "postrouting", Some(("filter", 4, refusal)));

    let mut rule = |chain: &str, build: &dyn Fn(Rule<'_, '_>)| new_rule(changes, name, chain, build);
    for chain in ["nat-prerouting", "nat-output"] {
        rule(chain, &|rule| rule.verdict(Verdict::Jump("services")));
    }
    rule("services", &|rule| {
        load_frontend(rule, false, 0).look_up_verdict("services", Reg(0));
    });
    rule("services", &|rule| {
        let rule = rule.destined_here().in_range(Field::DestinationAddress, LOOPBACK, false);
        load_frontend(rule, true, 0).look_up_verdict("services", Reg(0));
    });

    rule("nat-postrouting", &|rule| {
        let rule = rule.load(Field::SourceAddress, Reg(0)).load(Field::DestinationAddress, Reg(1));
        rule.in_set("hairpin", Reg(0)).translate_source(config.gateway);
    });
    rule("nat-postrouting", &|rule| {
        rule.in_range(Field::SourceAddress, pods, true)
            .in_range(Field::DestinationAddress, pods, false)
            .interface(Interface::Out, prefix, false)
            .masquerade();
    });
    rule("nat-postrouting", &|rule| {
        let rule = rule.translated().interface(Interface::Out, "lo\0", false);
        load_frontend(rule, false, 0).in_set("outside", Reg(0)).masquerade();
    });

    // A late packet of a connection that is no longer tracked must neither pass untranslated nor be answered
    // with a reset, which might hit a later connection with the same ports.
    rule("forward", &|rule| rule.interface(Interface::In, prefix, true).invalid().verdict(Verdict::Drop));
    for chain in ["forward", "output"] {
        rule(chain, &|rule| {
            rule.in_range(Field::DestinationAddress, services, true).verdict(Verdict::Jump("refuse"));
        });
    }
    rule("input", &|rule| {
        let rule = rule.begins_connection().in_range(Field::DestinationAddress, LOOPBACK, false);
        rule.load_protocol(Reg(0))
            .load(Field::DestinationPort, Reg(1))
            .in_set("refused", Reg(0))
            .verdict(Verdict::Goto("refuse"));
    });
    // What is for a pod that is gone must not leave by the host's other routes. Who asked for its address is told; who was
    // led there is not: sent again, it is led elsewhere as soon as it is no longer tracked. (Where it leaves, not all that
    // the host itself sent has been routed anew in its output chain.)
    for chain in ["forward", "output", "postrouting"] {
        let strays = |rule: Rule<'_, '_>, then: &dyn Fn(Rule<'_, '_>)| {
            let rule = rule.in_range(Field::DestinationAddress, pods, true);
            then(rule.interface(Interface::Out, prefix, false).interface(Interface::Out, "lo\0", false));
        };
        if chain == "postrouting" {
            rule(chain, &|rule| strays(rule, &|rule| rule.verdict(Verdict::Drop)));
        } else {
            rule(chain, &|rule| strays(rule, &|rule| rule.translated().verdict(Verdict::Return)));
            rule(chain, &|rule| strays(rule, &|rule| rule.verdict(Verdict::Jump("refuse"))));
        }
    }
    rule("refuse", &|rule| rule.protocol_is(Protocol::Tcp as u8).reset());
    rule("refuse", &|rule| rule.unreachable());
}

/// The loopback addresses; ports of the node are not translated there but served in user space.
const LOOPBACK: Cidr = Cidr { base: Ipv4Addr::new(127, 0, 0, 0), prefix: 8 };
