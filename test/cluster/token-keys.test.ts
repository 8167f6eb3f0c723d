import { readFile, stat } from 'node:fs/promises'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { createRun, readRun } from '../../examples/payledger/payledger.ts'
import { isHoldfastError } from '../../src/base/errors.ts'
import { systemClock } from '../../src/base/clock.ts'
import type { Gateway } from '../../src/fleet/gateway.ts'
import { newSecret, readKeys, writeKeys } from '../../src/fleet/keys.ts'
import { publishKey, ringLeaseMs } from '../../src/session/key-rotation.ts'
import { GatewayProcess } from '../support/gateway-process.ts'
import { seedTenant, TestFleet } from '../support/fleet.ts'

/** Rotations of the keys of session tokens, with sessions that go from gateway to gateway meanwhile. */

const tenant = 'globex-eu'
const actor = 'manager@globex-eu.example'

let fleet: TestFleet
let gateways: readonly [Gateway, Gateway]
let apart: GatewayProcess

beforeAll(async () => {
  fleet = await TestFleet.open()
  const west = await fleet.gateway('eu-west')
  await seedTenant(west, tenant)
  // Half a lease apart, so that one of them hears of a key while the other does not yet.
  apart = await GatewayProcess.start({ dataDir: fleet.config.dataDir, region: 'us-east', quiet: true })
  await systemClock.sleep(ringLeaseMs / 2)
  gateways = [west, await fleet.gateway('eu-central')]
})

afterAll(async () => {
  await apart?.stop()
  await fleet?.close()
})

const keysFile = () => `${fleet.supervisor.home.keysDir}/fleet.json`
const keyIdOf = (token: string) => Buffer.from(token, 'base64url')[1]
const signing = async () => (await gateways[0].keys()).find(({ state }) => state === 'signing')?.id

/** The next token of a session that passes the gateway of another process. */
async function throughAnother(session: string): Promise<string> {
  const reads = { tenant, queries: [{ domain: 'payroll', text: 'select 1' }] }
  const answer = await apart.post('/v1/reads', reads, { 'holdfast-session': session })
  const next = answer.headers.get('holdfast-session')
  if (answer.status !== 200 || next === null) throw new Error(`${answer.status}: ${await answer.text()}`)
  return next
}

/** A session that takes turns at the gateways until it is told to end. */
async function wander(
  run: string,
  ends: { readonly now: boolean },
): Promise<{ ids: Set<number | undefined>; steps: number }> {
  const { session: begun } = await createRun(gateways[0], { tenant, run, actor, department: 'hq' })
  let session = begun
  const ids = new Set<number | undefined>()
  for (let steps = 0; ; steps += 1) {
    const gateway = gateways[steps % 2 === 0 ? 1 : 0]
    ids.add(keyIdOf(session))
    const answer = await readRun(gateway, { tenant, run, session })
    expect(answer.run).not.toBeNull()
    session = await throughAnother(answer.session)
    if (ends.now) return { ids, steps }
    await systemClock.sleep(20)
  }
}

test('S13: sessions live through rotations, and no gateway refuses what another has just issued', async () => {
  const old = await createRun(gateways[1], { tenant, run: 'before', actor, department: 'hq' })
  const before = await signing()
  const ends = { now: false }
  const wandering = Promise.all(['one', 'two', 'three'].map((run) => wander(run, ends)))
  await Promise.race([wandering, gateways[0].rotateKeys()])
  // Until the gateway that read the ring last has read it again.
  await Promise.race([wandering, systemClock.sleep(ringLeaseMs + 1_000)])
  ends.now = true
  const after = await signing()
  expect(after).not.toBe(before)
  for (const { ids, steps } of await wandering) {
    expect(steps).toBeGreaterThan(10)
    expect([...ids]).toEqual([before, after])
  }
  for (const gateway of gateways) {
    const answer = await readRun(gateway, { tenant, run: 'before', session: old.session })
    expect(answer.run).not.toBeNull()
    expect(keyIdOf(answer.session)).toBe(after)
  }
})

test('S15: of two rotations at once there is one key more', async () => {
  const before = (await gateways[0].keys()).length
  await Promise.all([gateways[0].rotateKeys(), gateways[1].rotateKeys()])
  const keys = await gateways[0].keys()
  expect(keys.length).toBe(before + 1)
  expect(keys.map(({ state }) => state).toSorted()).toEqual([...Array<string>(before).fill('retired'), 'signing'])
})

test('S15: a rotation that was broken off goes on with the key that it had published', async () => {
  const { home } = fleet.supervisor
  const keys = await readKeys(home.keysDir)
  const left = publishKey(keys.tokenKeys, newSecret())
  if (left === undefined) throw new Error('the ring is full')
  // What a supervisor that was killed in between leaves.
  await writeKeys(home.keysDir, { ...keys, tokenKeys: left })
  expect((await gateways[0].keys()).find(({ state }) => state === 'published')?.id).toBe(left.next)
  await gateways[0].rotateKeys()
  expect((await readKeys(home.keysDir)).tokenKeys).toMatchObject({ current: left.next, keys: left.keys })
})

test('S14: a key whose tokens have all expired verifies nothing, and leaves the file with the next rotation', async () => {
  const { home } = fleet.supervisor
  const { session } = await createRun(gateways[0], { tenant, run: 'old', actor, department: 'hq' })
  const id = keyIdOf(session) ?? Number.NaN
  await gateways[0].rotateKeys()
  const keys = await readKeys(home.keysDir)
  const retiredAtMs = { ...keys.tokenKeys.retiredAtMs, [id]: 0 }
  await writeKeys(home.keysDir, { ...keys, tokenKeys: { ...keys.tokenKeys, retiredAtMs } })
  await systemClock.sleep(ringLeaseMs + 1)
  await expect(readRun(gateways[1], { tenant, run: 'old', session })).rejects.toMatchObject({ code: 'token_forged' })
  await gateways[0].rotateKeys()
  expect(Object.keys((await readKeys(home.keysDir)).tokenKeys.keys)).not.toContain(String(id))
})

test('S16: what a revoked key signed is refused by every gateway, and those sessions go on without it', async () => {
  const { session } = await createRun(gateways[0], { tenant, run: 'leaked', actor, department: 'hq' })
  const id = keyIdOf(session) ?? Number.NaN
  expect(await signing()).toBe(id)
  // One that reads the ring whenever its lease ends, and so may have had it for long when the key goes.
  const busy = { over: false }
  const reading = (async () => {
    while (!busy.over) {
      await readRun(gateways[0], { tenant, run: 'leaked' })
      await systemClock.sleep(20)
    }
  })()
  const keys = await gateways[1].revokeKey(id)
  busy.over = true
  await reading
  expect(keys.map((key) => key.id)).not.toContain(id)
  for (const gateway of gateways) {
    await expect(readRun(gateway, { tenant, run: 'leaked', session })).rejects.toMatchObject({ code: 'token_forged' })
  }
  const reads = { tenant, queries: [{ domain: 'payroll', text: 'select 1' }] }
  expect((await apart.post('/v1/reads', reads, { 'holdfast-session': session })).status).toBe(403)
  const { session: anew } = await readRun(gateways[0], { tenant, run: 'leaked' })
  expect(
    (await readRun(gateways[1], { tenant, run: 'leaked', session: await throughAnother(anew) })).run,
  ).not.toBeNull()
  await expect(gateways[0].revokeKey(id)).rejects.toMatchObject({ code: 'argument_invalid' })
})

test('secrets are in the file of mode 0600 and nowhere else', async () => {
  expect((await stat(keysFile())).mode & 0o777).toBe(0o600)
  const { tokenKeys } = JSON.parse(await readFile(keysFile(), 'utf8')) as {
    tokenKeys: { keys: Record<string, string> }
  }
  const shown = JSON.stringify(await gateways[0].keys())
  for (const secret of Object.values(tokenKeys.keys)) expect(shown).not.toContain(secret)
})

test('S1: a token of one credential is refused for another and for none', async () => {
  const asked = { tenant, credential: 'alice' }
  const count = (request: Parameters<Gateway['read']>[0]) =>
    gateways[0].read(request, (read) => read.query('payroll', 'select count(*) from payroll_runs'))
  const { session } = await count(asked)
  for (const credential of ['bob', undefined]) {
    const foreign = await count({ tenant, credential, session }).catch((error: unknown) => error)
    expect(isHoldfastError(foreign, 'token_foreign')).toBe(true)
  }
  const again = await count({ ...asked, session })
  const written = await gateways[1].transact(
    { ...asked, session: again.session, action: 'payroll.note', subject: 'x', actor },
    async (tx) => void (await tx.query('payroll', 'select 1')),
  )
  const snapshot = { tenant, domains: ['payroll'], session: written.session }
  const look = (credential: string) =>
    gateways[1].snapshot({ ...snapshot, credential }, (read) => read.query('payroll', 'select 1'))
  await look('alice')
  await expect(look('bob')).rejects.toMatchObject({ code: 'token_foreign' })
  // Who names no credential is given a token for everybody.
  const open = await count({ tenant })
  await count({ ...asked, session: open.session })
})
