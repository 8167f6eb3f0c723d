import { describe, expect, test } from 'vitest'
import { changed, refusal } from '../../test/support/example-config.ts'

describe('refused with the line, what is wrong and what would be right', () => {
  test.each<[what: string, text: string, message: string, hint: string]>([
    [
      'an unknown key',
      changed('fleet: payledger', 'fleet: payledger\nflet: x'),
      'holdfast.yaml:2:1: flet: unknown key',
      'known keys are fleet, dataDir, listen, app, maxClockOffset, restoreWindow, regions, links, shards, domains, tenants, invariants, drills, outbox',
    ],
    [
      'an unknown key inside a shard',
      changed('[us-east, us-east] }', '[us-east, us-east], quorum: 1 }'),
      'holdfast.yaml:12:74: shards.us-east/treasury.quorum: unknown key',
      'known keys are durability, followers, survive',
    ],
    [
      'an unknown key inside a policy',
      changed(
        'policy: { authority: [us-east], replicas: [US], otherwise: reject } }\n  tax',
        'policy: { authority: [us-east], replicas: [US], otherwise: reject, version: 2 } }\n  tax',
      ),
      'holdfast.yaml:16:82: domains.treasury.policy.version: unknown key',
      'known keys are authority, replicas, otherwise',
    ],
    [
      'an external node',
      changed('survive: region }', 'survive: region, nodes: {} }'),
      'holdfast.yaml:11:94: shards.eu-west/payroll.nodes: external nodes are not supported yet',
      'leave it out: the fleet runs its own servers',
    ],
    [
      'a missing key',
      changed('fleet: payledger\n', ''),
      'holdfast.yaml:1:1: fleet: is missing',
      'write a fleet name in lower case, at most 32 characters, e.g. payledger',
    ],
    [
      'a name of the wrong form',
      changed('fleet: payledger', 'fleet: Pay_Ledger'),
      'holdfast.yaml:1:8: fleet: "Pay_Ledger" is not a fleet name',
      'write a fleet name in lower case, at most 32 characters, e.g. payledger',
    ],
    [
      'a value of the wrong type',
      changed('[us-east, us-east] }', 'us-east }'),
      'holdfast.yaml:12:54: shards.us-east/treasury.followers: is not a list',
      'write a list',
    ],
    [
      'a value that is not known',
      changed('durability: quorum, followers: [us-east', 'durability: most, followers: [us-east'),
      'holdfast.yaml:12:35: shards.us-east/treasury.durability: "most" is not known',
      'write quorum or local',
    ],
    [
      'a data class that is not known',
      changed('class: reference', 'class: referenced'),
      'holdfast.yaml:17:22: domains.tax.class: is not a data class',
      'write regulated, reference or derived',
    ],
    [
      'a duration without a unit',
      changed('every: 24h', 'every: "24"'),
      'holdfast.yaml:23:18: drills.every: is not a duration',
      'write a number and s, m, h or d, e.g. 24h',
    ],
    [
      'a shard in an unknown region',
      changed('shards:\n', 'shards:\n  mars/base: { durability: local }\n'),
      'holdfast.yaml:11:3: shards.mars/base: there is no region mars',
      'known regions are eu-west, eu-central, us-east',
    ],
    [
      'a follower in an unknown region',
      changed('followers: [us-east, us-east]', 'followers: [us-east, us-west]'),
      'holdfast.yaml:12:64: shards.us-east/treasury.followers.1: there is no region us-west',
      'known regions are eu-west, eu-central, us-east',
    ],
    [
      'a follower outside the jurisdiction of a tenant',
      changed('followers: [eu-west, eu-central]', 'followers: [eu-west, us-east]'),
      'holdfast.yaml:11:64: shards.eu-west/payroll.followers.1: a follower in us-east (US) would hold data of tenant globex-eu, whose policy allows EU',
      'legal for tenant globex-eu is eu-west, eu-central',
    ],
    [
      'quorum with one follower',
      changed('followers: [us-east, us-east]', 'followers: [us-east]'),
      'holdfast.yaml:12:54: shards.us-east/treasury.followers: quorum waits for one of at least two followers, here are 1',
      'add followers until there are two, or write durability: local, which can lose acknowledged writes',
    ],
    [
      'quorum without followers',
      changed('followers: [us-east, us-east]', ''),
      'holdfast.yaml:12:3: shards.us-east/treasury.followers: quorum waits for one of at least two followers, here are 0',
      'add followers until there are two, or write durability: local, which can lose acknowledged writes',
    ],
    [
      'survival of the region without a follower elsewhere',
      changed('followers: [eu-west, eu-central], survive', 'followers: [eu-west, eu-west], survive'),
      'holdfast.yaml:11:83: shards.eu-west/payroll.survive: no follower is outside eu-west',
      'add a follower in another legal region',
    ],
    [
      'survival of the region without waiting',
      changed('durability: quorum, followers: [eu-west', 'durability: local, followers: [eu-west'),
      'holdfast.yaml:11:85: shards.eu-west/payroll.survive: local durability waits for no follower',
      'write durability: quorum',
    ],
    [
      'a home where the policy does not allow the authority',
      changed('home: us-east/treasury, policy', 'home: eu-west/payroll, policy').replace(
        'replicas: [US], otherwise: reject } }\ninv',
        'replicas: [US, EU], otherwise: reject } }\ninv',
      ),
      'holdfast.yaml:21:23: tenants.initech-us.home: the policy of tenant initech-us does not allow the authority in eu-west',
      'legal for tenant initech-us is us-east',
    ],
    [
      'a pinned domain where its policy does not allow the authority',
      changed(
        'policy: { authority: [us-east], replicas: [US], otherwise: reject } }\n  tax',
        'policy: { authority: [eu-west], replicas: [EU, US], otherwise: reject } }\n  tax',
      ),
      'holdfast.yaml:15:44: domains.treasury.placement: the policy of domain treasury does not allow the authority in us-east',
      'legal for domain treasury is eu-west',
    ],
    [
      'an unknown home',
      changed('home: us-east/treasury', 'home: us-east/payroll'),
      'holdfast.yaml:21:23: tenants.initech-us.home: there is no shard us-east/payroll',
      'known shards are eu-west/payroll, us-east/treasury',
    ],
    [
      'a source on an unknown shard',
      changed('source: us-east/treasury', 'source: us-east/tax'),
      'holdfast.yaml:17:41: domains.tax.source: there is no shard us-east/tax',
      'known shards are eu-west/payroll, us-east/treasury',
    ],
    [
      'a pinned domain without a policy',
      changed(',\n              policy: { authority: [us-east], replicas: [US], otherwise: reject } }', ' }'),
      'holdfast.yaml:15:13: domains.treasury: a pinned regulated domain needs a policy of its own',
      'add policy: { authority, replicas, otherwise }',
    ],
    [
      'a policy on a domain at home',
      changed(
        'placement: tenant-home,',
        'placement: tenant-home, policy: { authority: [us-east], replicas: [US], otherwise: reject },',
      ),
      "holdfast.yaml:14:65: domains.payroll.policy: at home the tenant's policy holds",
      'leave it out, or pin the domain to a shard',
    ],
    [
      'a table in two domains',
      changed('tables: [treasury_holds]', 'tables: [treasury_holds, employees]'),
      'holdfast.yaml:15:114: domains.treasury.tables.1: table employees is already in domain payroll',
      'list it in one domain',
    ],
    [
      'a column source that is not a domain',
      changed('from: { payroll: {', 'from: { payrolls: {'),
      'holdfast.yaml:18:61: domains.finance.from.payrolls: there is no domain payrolls',
      'known domains are payroll, treasury, tax, finance',
    ],
    [
      'a column source that is not a table',
      changed('{ payroll_runs: [id', '{ payroll_walks: [id'),
      'holdfast.yaml:18:72: domains.finance.from.payroll.payroll_walks: domain payroll has no table payroll_walks',
      'its tables are employees, payroll_runs',
    ],
    [
      'a policy whose failover leads out of its own jurisdictions',
      changed('authority: [eu-west, eu-central]', 'authority: [eu-west, us-east]'),
      "holdfast.yaml:20:71: tenants.globex-eu.policy.authority.1: us-east lies in US, which the policy's replicas do not allow",
      'add US to replicas, or take us-east out',
    ],
    [
      'a region listed twice',
      changed('authority: [eu-west, eu-central]', 'authority: [eu-west, eu-west]'),
      'holdfast.yaml:20:71: tenants.globex-eu.policy.authority.1: eu-west is listed twice',
      'list it once',
    ],
    [
      'a jurisdiction of no region',
      changed('replicas: [EU]', 'replicas: [EU, CH]'),
      'holdfast.yaml:20:99: tenants.globex-eu.policy.replicas.1: no region lies in CH',
      'known jurisdictions are EU, US',
    ],
    [
      'tenants without a domain at home',
      changed(
        'placement: tenant-home',
        'placement: us-east/treasury, policy: { authority: [us-east], replicas: [US], otherwise: reject }',
      ),
      'holdfast.yaml:13:1: domains: no domain is placed at the home of its tenant',
      'give one regulated domain the placement tenant-home: transactions are recorded at home',
    ],
    [
      'no shards',
      'fleet: x\nregions: { eu: { jurisdiction: EU } }\nshards: {}\n',
      'holdfast.yaml:3:9: shards: is empty',
      'name at least one shard',
    ],
  ])('%s', (_, text, message, hint) => {
    const error = refusal(text)
    expect(error.code).toBe('config_invalid')
    expect(error.message).toBe(message)
    expect(error.hint).toBe(hint)
  })
})

test('all problems are told at once, in the order of the lines, with one hint each', () => {
  const text = changed('fleet: payledger', 'fleet: Pay')
    .replace('survive: region', 'surive: region')
    .replace('otherwise: read-only', 'otherwise: panic')
    .replace('home: us-east/treasury', 'home: us-east/other')
  const error = refusal(text)
  expect(error.message.split('\n')).toEqual([
    'holdfast.yaml:1:8: fleet: "Pay" is not a fleet name',
    'holdfast.yaml:11:77: shards.eu-west/payroll.surive: unknown key',
    'holdfast.yaml:20:111: tenants.globex-eu.policy.otherwise: "panic" is not known',
    'holdfast.yaml:21:23: tenants.initech-us.home: there is no shard us-east/other',
  ])
  expect(error.hint?.split('\n')).toHaveLength(4)
  expect(error.detail['problems']).toHaveLength(4)
})

test('what stands beside an unknown key is still checked', () => {
  const text = changed('followers: [eu-west, eu-central], survive', 'folowers: [], followers: [us-east], survive')
  expect(
    refusal(text)
      .message.split('\n')
      .map((line) => line.replace(/ would .*/, '')),
  ).toEqual([
    'holdfast.yaml:11:43: shards.eu-west/payroll.folowers: unknown key',
    'holdfast.yaml:11:69: shards.eu-west/payroll.followers.0: a follower in us-east (US)',
  ])
})
