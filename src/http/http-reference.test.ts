import { readFile } from 'node:fs/promises'
import { register } from 'prom-client'
import { describe, expect, test } from 'vitest'
import { errorTable } from '../base/errors.ts'
import type { Fleet } from '../fleet/fleet-api.ts'
import { createHttpApp } from './http.ts'
import { statusOf } from './problem.ts'

const page = await readFile(new URL('../../docs/reference/http.md', import.meta.url), 'utf8')

// Nothing of it is asked: only which routes there are.
const fleet = {} as Fleet
const app = createHttpApp({ fleet, appRoutes: [], registry: register, logger: { info: () => {}, error: () => {} } })

describe('the reference of HTTP', () => {
  test('names every route, and no other', () => {
    const served = app.routes
      .filter(({ method }) => method !== 'ALL')
      .map(({ method, path }) => `${method} ${path.replaceAll(/:(\w+)/g, '{$1}')}`)
    const named = [...page.matchAll(/`((?:GET|POST) \/[^`]*)`/g)].map(([, route]) => String(route))
    expect([...new Set(named)].toSorted()).toEqual([...new Set(served)].toSorted())
  })

  test('gives every category its status', () => {
    const categories = new Set(Object.values(errorTable).map(({ category }) => category))
    for (const category of categories) {
      expect(page).toMatch(new RegExp(`^\\| ${category} \\| ${statusOf(category)}[ ;]`, 'm'))
    }
  })
})
