import { mkdtemp, rm, stat } from 'node:fs/promises'
import { createConnection, createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { silentProgress } from '../base/progress.ts'
import { ControlClient, serveControl } from './control.ts'

test('the control socket is open to its user alone, and outlives a line that is no request', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'hf-control-'))
  const path = join(folder, 'control.sock')
  const stop = await serveControl(path, (method) => Promise.resolve(method))
  try {
    expect((await stat(path)).mode & 0o777).toBe(0o600)
    for (const line of ['null', '7', 'not json']) {
      const socket = createConnection({ path })
      const closed = new Promise((resolve) => socket.once('close', resolve))
      socket.write(`${line}\n`)
      await closed
    }
    const client = await ControlClient.connect(path)
    expect(await client.call('still there', {}, silentProgress)).toBe('still there')
    client.close()
  } finally {
    await stop()
    await rm(folder, { recursive: true, force: true })
  }
})

test('a supervisor that is killed in the middle of an answer fails the call, and not the process that waits for it', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'hf-control-'))
  const path = join(folder, 'control.sock')
  const supervisor = createServer((socket) => socket.once('data', () => socket.end('{"id":1,"result":{"shards"')))
  await new Promise<void>((resolve) => void supervisor.listen({ path }, resolve))
  try {
    const client = await ControlClient.connect(path)
    await expect(client.call('topology', {}, silentProgress)).rejects.toMatchObject({ code: 'fleet_not_running' })
    await client.closed()
  } finally {
    supervisor.close()
    await rm(folder, { recursive: true, force: true })
  }
})
