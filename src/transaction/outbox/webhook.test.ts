import { createServer, type Socket } from 'node:net'
import { expect, test } from 'vitest'
import { systemClock } from '../../base/clock.ts'
import type { TransactionId } from '../../directory/topology.ts'
import { toHlc } from '../../hlc/hlc.ts'
import { blockedPorts, postEvent, webhookFault } from './webhook.ts'

const event = {
  eventId: 'e1',
  transactionId: '0196f3a0-0000-7000-8000-000000000000' as TransactionId,
  ordinal: 1,
  commitTimestamp: toHlc(10n),
  tenant: 'globex-eu',
  name: 'payroll.approved',
  payload: '{}',
}

test('every port that is refused is one that no request is sent to', async () => {
  for (const port of blockedPorts) {
    const refusal = fetch(`http://127.0.0.1:${port}/`).catch((error: unknown) => error)
    expect(await refusal).toMatchObject({ cause: { message: 'bad port' } })
  }
})

test.each([
  ['http://127.0.0.1:9999/hook', null],
  ['https://hooks.example/t0ken', null],
  ['http://payroll:secret@127.0.0.1:9999/hook', 'has user info'],
  ['http://payroll@127.0.0.1:9999/hook', 'has user info'],
  ['http://:secret@127.0.0.1:9999/hook', 'has user info'],
  ['http://127.0.0.1:6000/hook', 'has a blocked port'],
])('%s: %s', (url, fault) => {
  expect(webhookFault(url)).toBe(fault)
})

test.each([
  ['with a password', 'http://payroll:secret@127.0.0.1:9999/hook', 'no answer: TypeError'],
  ['with a port of another protocol', 'http://127.0.0.1:6000/secret', 'no answer: TypeError'],
  ['of a host that does not exist', 'http://secret.invalid/hook', /^no answer: E[A-Z_]+$/],
  ['that is none', 'http://secret:secret/', 'no answer: ERR_INVALID_URL'],
])('what is told of an address %s has nothing of the address', async (_, url, reason) => {
  const answer = await postEvent(url, event, systemClock, 5_000)
  expect(answer).toMatchObject({ kind: 'unreachable', reason: expect.stringMatching(reason) })
  expect(JSON.stringify(answer)).not.toContain('secret')
})

test('one that nobody listens at, and one that says nothing', async () => {
  const sockets: Socket[] = []
  const silent = createServer((socket) => void sockets.push(socket))
  await new Promise<void>((resolve) => silent.listen(0, '127.0.0.1', resolve))
  const address = silent.address()
  const port = typeof address === 'object' ? address?.port : 0
  const late = await postEvent(`http://127.0.0.1:${port}/`, event, systemClock, 100)
  expect(late).toEqual({ kind: 'unreachable', reason: 'no answer within 100 ms' })
  for (const socket of sockets) socket.destroy()
  await new Promise((resolve) => silent.close(resolve))
  const nobody = await postEvent(`http://127.0.0.1:${port}/`, event, systemClock, 5_000)
  expect(nobody).toEqual({ kind: 'unreachable', reason: 'no answer: ECONNREFUSED' })
})
