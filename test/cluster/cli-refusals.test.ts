import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { stringify } from 'yaml'
import { configBelow } from '../../examples/payledger/demo/config.ts'
import { leftBehind } from '../../examples/payledger/demo/leftovers.ts'
import { exitCodes } from '../../src/cli/output.ts'
import { runJson } from '../support/command.ts'
import { CommandFleet, tenant } from '../support/command-fleet.ts'

/** What the command line refuses, with the exit code of the category of its error. */

const payroll = 'eu-west/payroll'
const text = expect.any(String)

let fleet: CommandFleet

beforeAll(async () => {
  fleet = await CommandFleet.open()
})

afterAll(() => fleet?.close())

const nobody = '0198a8a8-0000-7000-8000-000000000000'
const cases: [string[], number, string][] = [
  [['frob'], 2, 'argument_invalid'],
  [['status', '--region', 'mars'], 2, 'argument_invalid'],
  [['sql', 'select 1', '--tenant', 'nobody', '--domain', 'payroll'], 4, 'unknown_tenant'],
  [['sql', 'select 1', '--tenant', tenant, '--domain', 'nothing'], 4, 'unknown_domain'],
  [['sql', 'select 1; commit', '--tenant', tenant, '--domain', 'payroll'], 2, 'statement_refused'],
  [['sql', 'select 1', '--tenant', tenant, '--domain', 'payroll', '--session', 'no token'], 2, 'token_malformed'],
  [['tenant', 'show', 'nobody'], 4, 'unknown_tenant'],
  [['timeline', '--tenant', 'nobody'], 4, 'unknown_tenant'],
  [['timeline', '--since', 'yesterday'], 2, 'argument_invalid'],
  [['txn', nobody], 4, 'unknown_transaction'],
  [['prove', nobody], 4, 'unknown_transaction'],
  [['backup', 'eu-west/nothing'], 4, 'unknown_shard'],
  [['restore'], 2, 'argument_invalid'],
  [['restore', '--before', nobody], 4, 'unknown_transaction'],
  [['restore', '--at', 'end', '--into', 'elsewhere'], 2, 'argument_invalid'],
  [['invariants', 'check', 'nothing'], 4, 'unknown_invariant'],
  [['invariants', 'check', '--env', 'nothing'], 4, 'unknown_environment'],
  [['drill', 'show', 'nothing'], 4, 'unknown_environment'],
  [['restore', 'drop', 'nothing'], 4, 'unknown_environment'],
  [['restore', 'drop'], 2, 'argument_invalid'],
  [['cutover', 'nothing'], 4, 'unknown_environment'],
  [['failover', 'eu-west/nothing'], 4, 'unknown_shard'],
  [['failover', payroll, '--to', 'mars'], 2, 'argument_invalid'],
  [['failover', payroll, '--to', 'us-east'], 3, 'residency_denied'],
  [['up'], 5, 'fleet_locked'],
  [['up', '--wan', 'far'], 2, 'argument_invalid'],
]

test.concurrent.each(cases)('%j', async (args, code, error) => {
  expect(await fleet.holdfast(...args)).toMatchObject({ code, document: { error: { code: error, message: text } } })
})

test('a token that was changed, and one of another tenant', async () => {
  const { session } = await fleet.addRun('token')
  const changed = `${session.slice(0, -4)}${session.endsWith('AAAA') ? 'BBBB' : 'AAAA'}`
  const read = ['sql', 'select 1', '--domain', 'payroll']
  const [forged, foreign] = await Promise.all([
    fleet.holdfast(...read, '--tenant', tenant, '--session', changed),
    fleet.holdfast(...read, '--tenant', 'acme-de', '--session', session),
  ])
  expect(forged).toMatchObject({ code: exitCodes.denied, document: { error: { code: 'token_forged' } } })
  expect(foreign).toMatchObject({ code: exitCodes.denied, document: { error: { code: 'token_foreign' } } })
})

test('a configuration with an unknown key or an illegal replica starts nothing', async () => {
  const dataDir = join(fleet.root, 'other')
  const config = { ...(await configBelow(fleet.root)), dataDir, listen: '127.0.0.1:0' }
  const shards = { ...config.shards, [payroll]: { durability: 'quorum', followers: ['eu-west', 'us-east'] } }
  const start = async (name: string, content: object) => {
    const file = join(fleet.root, name)
    await writeFile(file, stringify(content))
    return runJson('up', '--config', file)
  }
  const answers = await Promise.all([
    start('key.yaml', { ...config, colour: 'red' }),
    start('replica.yaml', { ...config, shards }),
    runJson('up', '--config', join(fleet.root, 'nothing.yaml')),
  ])
  const error = { code: 'config_invalid', message: text, hint: text }
  for (const answer of answers) expect(answer).toMatchObject({ code: exitCodes.invalid, document: { error } })
  expect(await leftBehind(dataDir)).toEqual([])
})

test('no fleet there', async () => {
  const answer = await runJson('status', '--data-dir', join(fleet.root, 'nowhere'))
  expect(answer).toMatchObject({ code: exitCodes.unavailable, document: { error: { code: 'fleet_not_running' } } })
})
