import { expect, test } from 'vitest'
import { ManualClock } from '../../test/support/manual-clock.ts'
import { promoteKey, publishKey, ringLeaseMs, type TokenKeys } from '../session/key-rotation.ts'
import { TokenRing } from './token-ring.ts'

const secretOf = (name: string) => Buffer.alloc(32, name).toString('base64url')
const founded: TokenKeys = { current: 1, keys: { 1: secretOf('first') } }

function rotated(): TokenKeys {
  const ring = publishKey(founded, secretOf('second'))
  if (ring === undefined) throw new Error('the ring is full')
  return promoteKey(ring, 2, secretOf('second'), 0)
}

/** A ring over a file of which every reading waits until it is let go, where `held` says so. */
async function open() {
  const clock = new ManualClock()
  const file = { keys: founded, readings: 0, held: undefined as Promise<void> | undefined }
  const read = async () => {
    file.readings += 1
    const { keys } = file
    await file.held
    return keys
  }
  return { clock, file, ring: await TokenRing.open(read, clock) }
}

test('S13: a ring is used for its lease and read again after it', async () => {
  const { clock, file, ring } = await open()
  file.keys = rotated()
  await clock.advance(ringLeaseMs)
  await ring.renew()
  expect([ring.latest().current, file.readings]).toEqual([1, 1])
  await clock.advance(1)
  await ring.renew()
  expect([ring.latest().current, file.readings]).toEqual([2, 2])
})

test('S13: the lease counts from before the reading, so one that hung does not vouch for what came since', async () => {
  const { clock, file, ring } = await open()
  await clock.advance(ringLeaseMs + 1)
  let letGo = () => {}
  file.held = new Promise((resolve) => (letGo = resolve))
  const first = ring.renew()
  file.keys = rotated()
  await clock.advance(ringLeaseMs + 1)
  const later = ring.renew()
  letGo()
  await Promise.all([first, later])
  expect(ring.latest().current).toBe(2)
})

test('a ring that cannot be read again is told, and nothing is judged by the old one', async () => {
  const { clock, file, ring } = await open()
  await clock.advance(ringLeaseMs + 1)
  file.held = Promise.reject(new Error('the disk is gone'))
  await expect(ring.renew()).rejects.toThrow('the disk is gone')
})
