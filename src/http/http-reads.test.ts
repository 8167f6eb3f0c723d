import { register } from 'prom-client'
import { expect, test } from 'vitest'
import type { Fleet } from '../fleet/fleet-api.ts'
import { createHttpApp } from './http.ts'

test('a snapshot waits as long as its body says', async () => {
  const waits: (number | undefined)[] = []
  const snapshot: Fleet['snapshot'] = async ({ waitMs }, run) => {
    waits.push(waitMs)
    const query = () => Promise.resolve({ rows: [], rowCount: 0, fields: [], command: 'SELECT' })
    return { value: await run({ query, client: () => ({ query }) }), session: 'next', served: [] }
  }
  const fleet = { snapshot } as Partial<Fleet> as Fleet
  const app = createHttpApp({ fleet, appRoutes: [], registry: register, logger: { info: () => {}, error: () => {} } })
  for (const said of [{ waitMs: 400 }, {}]) {
    const body = JSON.stringify({ tenant: 't', snapshot: true, queries: [{ domain: 'd', text: 'select 1' }], ...said })
    const answer = await app.request('/v1/reads', {
      method: 'POST',
      headers: { 'Content-Type': 'application/json' },
      body,
    })
    expect(answer.status).toBe(200)
  }
  expect(waits).toEqual([400, undefined])
})
