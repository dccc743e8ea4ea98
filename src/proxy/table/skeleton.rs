//! The rules that are there whatever the services are: where packets enter, masquerade, refusals.

use super::at;
use super::chain::load_frontend;
use super::message::{new_chain, new_rule};
use crate::proxy::Config;
use crate::proxy::expression::{Field, Interface, Reg, Rule, Verdict};
use crate::proxy::family::{Address, Range};
use crate::proxy::state::Protocol;
use crate::sys::netlink::Messages;

/// The chain of the ranges of services' addresses.
pub(super) const RANGES: &str = "service-ranges";

/// Refuses what is for an address of a service that none has, in the cluster's own range and in others.
pub(super) fn refuse_ranges<A: Address>(changes: &mut Messages, config: &Config<A>, others: &[A::Range]) {
    // Where somebody has chosen so, pods come first: what is led to them has been translated already.
    if others.iter().any(|range| overlap(*range, config.pods)) {
        new_rule(changes, at(config), RANGES, &|rule| {
            rule.in_range(Field::DestinationAddress, config.pods, true).verdict(Verdict::Return);
        });
    }
    for range in [&config.services].into_iter().chain(others) {
        new_rule(changes, at(config), RANGES, &|rule| {
            rule.in_range(Field::DestinationAddress, *range, true).verdict(Verdict::Jump("refuse"));
        });
    }
}

fn overlap<R: Range>(one: R, other: R) -> bool {
    one.has(other.ends().0) || other.has(one.ends().0)
}

/// The rules that do not depend on any service.
pub(super) fn skeleton<A: Address>(changes: &mut Messages, config: &Config<A>) {
    let name = at(config);
    let (prefix, pods) = (&config.link_prefix, config.pods);
    for chain in ["services", RANGES, "refuse"] {
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
        let rule = rule.destined_here();
        // Ports of the node are not translated there but served in user space.
        let rule = rule.in_range(Field::DestinationAddress, A::LOOPBACK, false);
        load_frontend(rule, true, 0).look_up_verdict("services", Reg(0));
    });

    rule("nat-postrouting", &|rule| {
        let rule = rule.load(Field::SourceAddress, Reg(0));
        let second = Reg(rule.width());
        let rule = rule.load(Field::DestinationAddress, second);
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
        rule(chain, &|rule| rule.verdict(Verdict::Jump(RANGES)));
    }
    rule("input", &|rule| {
        let rule = rule.begins_connection().in_range(Field::DestinationAddress, A::LOOPBACK, false);
        rule.load_protocol(Reg(0))
            .load(Field::DestinationPort, Reg(1))
            .in_set("refused", Reg(0))
            .verdict(Verdict::Goto("refuse"));
    });
    // What is for a pod that is gone must not leave by the host's other routes. Who asked for its address is told; who was
    // led there is not: sent again, it is led elsewhere as soon as it is no longer tracked. (Where it leaves, not all that
    // the host itself sent has been routed anew in its output chain.)
    for by in [Stray::Elsewhere, Stray::Nowhere] {
        for chain in ["forward", "output"] {
            rule(chain, &|rule| by.of(rule, config).translated().verdict(Verdict::Return));
            rule(chain, &|rule| by.of(rule, config).verdict(Verdict::Jump("refuse")));
        }
        rule("postrouting", &|rule| by.of(rule, config).verdict(Verdict::Drop));
    }
    rule("refuse", &|rule| rule.protocol_is(Protocol::Tcp as u8).reset());
    rule("refuse", &|rule| rule.unreachable());
}

/// How a packet for a pod that is not there would go.
#[derive(Clone, Copy)]
enum Stray {
    /// By a link that is not this cluster's.
    Elsewhere,
    /// By the link of the gateway, behind which there is nobody.
    Nowhere,
}

impl Stray {
    /// Goes on only for packets that would go so.
    fn of<'a, 'b, A: Address>(self, rule: Rule<'a, 'b>, config: &Config<A>) -> Rule<'a, 'b> {
        let prefix = &config.link_prefix;
        let rule = rule.in_range(Field::DestinationAddress, config.pods, true);
        match self {
            Stray::Elsewhere => {
                rule.interface(Interface::Out, prefix, false).interface(Interface::Out, "lo\0", false)
            }
            Stray::Nowhere => rule.interface(Interface::Out, &format!("{prefix}0\0"), true),
        }
    }
}
