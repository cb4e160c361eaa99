import react from '@vitejs/plugin-react'
import { defineConfig } from 'vite'

// The test names the folder of the result: --outDir.
export default defineConfig({ plugins: [react()], build: { target: 'es2022' } })
